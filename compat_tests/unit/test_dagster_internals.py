"""Dagster's private parts that are leaned on: each has one shape, and is as expected."""

import os
import pkgutil
from importlib import import_module

import pytest

from dagster_taskiq import dagster_internals
from dagster_taskiq.dagster_internals.part import DagsterPart
from dagster_taskiq.dagster_internals.registry import PARTS, find_problems
from dagster_taskiq.settings.env import copy_environment
from dagster_taskiq.worker.dagster_parts import log_parts, unexpected_parts

#: Modules that touch nothing of Dagster's.
OTHERS = {"part", "registry", "job_cache", "kept_engines", "storage_connections"}


# It goes on in Dagster's own way if it is not, so nothing else would tell.
@pytest.mark.oldest
@pytest.mark.parametrize("part", PARTS, ids=lambda part: str(part.name))
def test_dagsters_inside_is_as_expected(part: DagsterPart) -> None:
    assert part.find_problem() == ""


def test_each_module_has_a_part_that_is_in_the_registry() -> None:
    names = {module.name for module in pkgutil.iter_modules(dagster_internals.__path__)}
    modules = [import_module(f"{dagster_internals.__name__}.{name}") for name in names - OTHERS]
    assert {module.PART.name for module in modules} == {part.name for part in PARTS}
    assert len(modules) == len(PARTS)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: str(part.name))
def test_a_part_says_what_it_touches_why_and_what_happens_otherwise(part: DagsterPart) -> None:
    assert part.touches.endswith(")"), "how it is touched: (replaced), (wrapped), (read)"
    for text in (part.why, part.otherwise):
        assert text.endswith(".")


def test_a_part_that_cannot_even_be_checked_is_not_as_expected() -> None:
    def check() -> str:
        raise AttributeError("there is no such thing")

    part = DagsterPart("a part", "it (wrapped)", "Why.", "Otherwise.", check)
    assert part.find_problem() == "AttributeError: there is no such thing"


def test_a_worker_warns_of_what_is_not_as_expected(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    part = DagsterPart("two", "it (wrapped)", "Why.", "Steps are slower.", lambda: "it has changed")
    log_parts({"one": "", "two": part.describe(part.find_problem())})
    assert caplog.messages == [
        "Dagster is as expected in 1 of the 2 parts that are used here.",
        "Dagster's parts in use: one.",
        "Dagster is not as expected (two). it (wrapped): it has changed. Steps are slower.",
    ]
    assert unexpected_parts({"one": "", "two": "it has changed."}) == ("two",)


def test_what_is_found_out_has_all_parts() -> None:
    assert list(find_problems()) == [part.name for part in PARTS]


def test_the_environment_is_copied_by_its_encoded_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_VARIABLE", "ä")
    assert copy_environment(os.environ)[b"A_VARIABLE"] == os.fsencode("ä")
    # What a test of the user's puts in its place may be an ordinary dictionary.
    assert copy_environment({"A_VARIABLE": "ä"}) == {b"A_VARIABLE": os.fsencode("ä")}
    assert dict(os.environb) == copy_environment(os.environ)
