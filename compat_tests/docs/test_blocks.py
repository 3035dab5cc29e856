"""Every block of code on every page is checked, and every command in a sentence."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from compat_tests.checkout import ROOT
from compat_tests.docs.blocks import Block, all_blocks, pages, spans_in
from compat_tests.docs.checkers import check
from compat_tests.docs.outcome import Wrong
from compat_tests.docs.shell import OURS, check_command, commands_in

BLOCKS = all_blocks()


@contextmanager
def told(where: str) -> Iterator[None]:
    """Let the test fail with what to do, and where, in place of a traceback."""
    message = ""
    try:
        yield
    except Wrong as error:
        message = f"{where}: {error}"
    if message:
        pytest.fail(message, pytrace=False)


def test_there_are_blocks_to_check() -> None:
    assert {"README.md", "docs/how-to/own-tasks.md", "deploy/grafana/README.md"} <= {
        block.page for block in BLOCKS
    }
    assert {"python", "sh", "yaml", "text"} <= {block.language for block in BLOCKS}


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_is_as_it_has_to_be(block: Block) -> None:
    with told(str(block)):
        check(block)


def commands_in_sentences() -> list[tuple[str, str]]:
    """Return each command of ours that a sentence has between backticks, with its page."""
    return sorted(
        {
            (str(page.relative_to(ROOT)), span)
            for page in pages()
            for span in spans_in(page.read_text())
            if span.partition(" ")[0] in OURS and " " in span
        }
    )


@pytest.mark.parametrize(("page", "span"), commands_in_sentences())
def test_a_command_in_a_sentence_is_there(page: str, span: str) -> None:
    with told(page):
        for words in commands_in(span):
            check_command(words, page, is_whole=False)


def targets_in_sentences() -> list[tuple[str, str]]:
    return sorted(
        {
            (str(page.relative_to(ROOT)), target)
            for page in pages()
            for span in spans_in(page.read_text())
            for target in re.findall(r"^make ([\w-]+)", span)
        }
    )


@pytest.mark.parametrize(("page", "target"), targets_in_sentences())
def test_a_target_of_make_in_a_sentence_is_there(page: str, target: str) -> None:
    with told(page):
        check_command(["make", target], page)
