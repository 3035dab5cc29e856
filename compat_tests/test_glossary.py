"""docs/help/glossary.md: its words are in order, and each that it points at is there."""

import re

from compat_tests.checkout import ROOT

PAGE = (ROOT / "docs" / "help" / "glossary.md").read_text()
ROWS = re.findall(r"^\| (\*.+?\*) \| (.+) \|$", PAGE, re.MULTILINE)
WORDS = [re.findall(r"\*(.+?)\*", first) for first, _ in ROWS]
#: Forms of words that are not the plural with an s.
FORMS = {"children": "child", "started": "start", "drains": "drain"}


def test_its_words_are_in_alphabetical_order() -> None:
    first = [words[0].lower() for words in WORDS]
    assert len(first) > 50
    assert first == sorted(first)


def test_each_word_that_it_points_at_has_a_row() -> None:
    known = {word for words in WORDS for word in words}
    pointed = {word for _, meaning in ROWS for word in re.findall(r"\*(.+?)\*", meaning)}
    assert {w for w in pointed if FORMS.get(w, w) not in known and w[:-1] not in known} == set()
