"""The blocks of code on the pages, and what the comments before them say.

A block that is a file has its path, for readers, in a comment on its first line (``# shop.py``), or
where the format has no comments in an HTML comment before the block::

    <!-- file: task-definition.json -->

Other HTML comments before a block, which readers do not see, say how it is checked:

``<!-- snippet: before`` and lines of Python, up to ``-->``
    what a Python block needs and the page does not show: it is executed before the block.
``<!-- snippet: not run: why -->``
    Python that cannot be executed. It is compiled, and the names that it imports must be there.
``<!-- snippet: raises NAME -->``
    Python that ends with an error of this class.
``<!-- snippet: part of FILE -->``
    a piece of a file, checked as such a file is, whose other keys stand elsewhere. Of Kubernetes
    the kind and the place stand for the file: ``part of ScaledObject.spec``.
``<!-- snippet: diff of KIND -->``
    what both sides of a diff are: a language, or the name of a file.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from compat_tests.checkout import ROOT

#: Where pages are, beside the root itself.
FOLDERS = ("docs", "examples", "deploy", "compat_tests")

#: A comment that is a path, and perhaps a remark after a comma: ``# shop.py``.
_NAME = re.compile(r"(?:#|//|--|;|/\*)\s+(?P<path>[\w./@-]+)(?:, .*)?(?:\s*\*/)?$")
#: Files that are known by their whole name, since it has no suffix.
_WITHOUT_SUFFIX = ("Dockerfile", "Makefile", "Caddyfile", ".env", "crontab")
_COMMENT = re.compile(r"<!--\s*(?P<kind>file|snippet):\s*(?P<text>.*?)\s*-->", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A block of code on a page."""

    #: The page, from the root of the checkout.
    page: str
    #: The line of its first fence, or of an indented block its first line. The first line is 1.
    line: int
    #: The word after the fence. ``""``: there is none. ``None``: it is indented, without fences.
    language: str | None
    code: str
    #: The path of the file that it is, if it is one.
    name: str | None = None
    #: What the comments before it say, each without the word ``snippet:``.
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    def note(self, word: str) -> str | None:
        """Return what a comment says after a word, such as ``"part of"``, if there is one."""
        found = (re.fullmatch(rf"{word}[:\s]\s*(.*)", each, re.DOTALL) for each in self.notes)
        return next((match.group(1) for match in found if match), None)


def pages() -> list[Path]:
    """Return every page of Markdown that people read, in the order of their paths."""
    below = (page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))
    kept = (page for page in below if not any(part.startswith(".") for part in page.parts))
    return sorted({*ROOT.glob("*.md"), *kept})


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of a page below the root, in its order."""
    return blocks_in(page.read_text(), str(page.relative_to(ROOT)))


def all_blocks() -> list[Block]:
    """Return the blocks of all pages."""
    return [block for page in pages() for block in blocks_of(page)]


def blocks_in(text: str, page: str) -> list[Block]:
    """Return the blocks of a text.

    Args:
        text: Markdown.
        page: the path that its blocks name.
    """
    found: list[Block] = []
    notes: list[str] = []
    for token in MarkdownIt("commonmark").parse(text):
        if token.type == "html_block":
            notes += [match.group("kind", "text") for match in _COMMENT.finditer(token.content)]
        elif token.type in ("fence", "code_block"):
            found.append(_block(token, page, notes))
            notes = []
        elif token.type != "inline" and not token.hidden:
            notes = []
    return found


def spans_in(text: str) -> Iterator[str]:
    """Yield what stands between backticks in the sentences of a text."""
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        for child in token.children or ():
            if child.type == "code_inline":
                yield child.content


def _block(token: Token, page: str, notes: list[tuple[str, str]]) -> Block:
    assert token.map is not None
    first = token.content.partition("\n")[0].strip()
    match = _NAME.fullmatch(first)
    path = match.group("path") if match else None
    if path is not None and not re.search(r"\.\w+$", path) and not path.endswith(_WITHOUT_SUFFIX):
        path = None
    named = [text for kind, text in notes if kind == "file"]
    return Block(
        page,
        token.map[0] + 1,
        token.info.strip() if token.type == "fence" else None,
        token.content,
        named[-1] if named else path,
        tuple(text for kind, text in notes if kind == "snippet"),
    )
