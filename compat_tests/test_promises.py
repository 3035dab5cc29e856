"""Each promise has a test on every push, and the page of promises is up to date."""

import re

import pytest

from compat_tests import promises, tiers
from compat_tests.checkout import ROOT


@pytest.fixture(scope="module")
def all_items(request: pytest.FixtureRequest) -> list[pytest.Item]:
    """All tests there are."""
    collected = request.config.stash[tiers.COLLECTED]
    there = {
        path
        for each in promises.DIRECTORIES
        for path in (ROOT / each).rglob("test_*.py")
        if re.search(r"^(async )?def test_", path.read_text(), re.MULTILINE)
    }
    # All of them are there if pytest was given both directories.
    return collected if {each.path for each in collected} >= there else promises.collect()


def test_each_promise_has_a_test_on_every_push(all_items: list[pytest.Item]) -> None:
    without = [
        each.text
        for each in promises.promises()
        if not any(holder.on_push for holder in promises.holders(each, all_items))
    ]
    assert without == []


def test_each_test_that_a_promise_names_is_there(all_items: list[pytest.Item]) -> None:
    functions = {each.nodeid.partition("[")[0] for each in all_items}
    there = functions | {each.partition("::")[0] for each in functions}
    named = {name for each in promises.promises() for name in each.held_by}
    assert named - there == set()


def test_the_page_is_up_to_date(all_items: list[pytest.Item]) -> None:
    assert promises.PAGE.read_text() == promises.page(all_items), "make promises"
