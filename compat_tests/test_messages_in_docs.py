"""What the pages quote of the code is there, and what the code says of importance is on a page."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from compat_tests import texts
from compat_tests.checkout import ROOT
from dagster_taskiq.wire.records import TaskState
from dagster_taskiq.wire.task_counts import Outcome

DOCS = ROOT / "docs"
EVENTS = DOCS / "reference" / "events.md"
TROUBLE = DOCS / "help" / "troubleshooting.md"
#: The first column of a table that has messages of this project.
HEADS = ("event", "message")
#: What Dagster writes, in tables of ours.
DAGSTERS = ("Execution was interrupted unexpectedly.",)


def rows(text: str, *heads: str) -> Iterator[list[str]]:
    """Yield the cells of each row of the tables whose first column has one of these heads."""
    for table in re.findall(r"(?:^\|.*\n)+", f"{text}\n", re.MULTILINE):
        lines = [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in table.splitlines()]
        if lines[0][0] in heads:
            yield from lines[2:]


@cache
def quotes(text: str) -> list[str]:
    """Return what the first columns of a page quote."""
    spans = r"`` (.+?) ``|`([^`]+)`"
    cells = [row[0] for row in rows(text, *HEADS)]
    return [double or single for cell in cells for double, single in re.findall(spans, cell)]


def is_on(page: str, text: texts.Text) -> bool:
    """Return whether a page quotes a text, or its beginning."""
    return any(texts.is_part(quote, text) or texts.is_filled(quote, text) for quote in quotes(page))


@pytest.mark.parametrize("page", [EVENTS, TROUBLE], ids=lambda page: page.stem)
def test_each_message_that_a_page_quotes_is_in_the_code(page: Path) -> None:
    found = quotes(page.read_text())
    assert len(found) > 40
    ours = [each for each in found if not each.startswith(DAGSTERS)]
    assert [each for each in ours if not texts.is_quoted(each, texts.all_texts())] == []


def test_a_message_that_is_not_in_the_code_is_found_out() -> None:
    assert texts.is_quoted('Sent step "<any>" to queue "<any>".', texts.all_texts())
    assert not texts.is_quoted('Sent step "<any>" to queues "<any>".', texts.all_texts())


def test_every_event_in_the_log_of_a_run_is_listed() -> None:
    page = EVENTS.read_text()
    written = [each for each in texts.event_texts() if each.is_sentence]
    assert len(written) > 40
    assert [each for each in written if not is_on(page, each)] == []


@pytest.mark.parametrize("page", [EVENTS, TROUBLE], ids=lambda page: page.stem)
def test_every_failure_that_the_loop_writes_for_a_step_is_listed(page: Path) -> None:
    written = texts.texts_given_to("make_error", 0) + texts.texts_given_to("_fail", 1)
    assert len(written) == 3
    assert [each for each in written if not is_on(page.read_text(), each)] == []


def test_every_warning_in_the_log_of_a_worker_is_listed() -> None:
    page = TROUBLE.read_text()
    logged = [
        each
        for level in ("warning", "error", "exception", "critical")
        for each in texts.texts_given_to(level, 0, of="logger")
        if each.path.startswith("dagster_taskiq/") and each.is_sentence
    ]
    workers = [each for each in logged if not re.match(r"\w+/(monitor|demo)/", each.path)]
    assert len(workers) > 40
    assert [each for each in workers if not is_on(page, each)] == []


def test_every_state_of_a_task_and_every_outcome_is_listed() -> None:
    page = EVENTS.read_text()
    assert [row[0].strip("`") for row in rows(page, "state")] == [each.value for each in TaskState]
    assert {row[0].strip("`") for row in rows(page, "outcome")} == {e.value for e in Outcome}
