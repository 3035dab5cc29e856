"""The definitions of jobs that a child keeps while steps of several jobs take turns in it."""

from collections import Counter
from pathlib import Path

import pytest
from dagster import AssetKey, GraphDefinition, JobDefinition
from dagster._core.definitions.reconstruct import ReconstructableJob, ReconstructableRepository

from dagster_taskiq.dagster_internals import job_definitions
from dagster_taskiq.dagster_internals.job_definitions import MOST_JOBS, KeptDefinitions

CODE = """
from dagster import AssetsDefinition, Definitions, asset, define_asset_job

def made(number: int) -> AssetsDefinition:
    @asset(name=f"asset_{number}")
    def made_asset(): ...
    return made_asset

defs = Definitions([*map(made, range(8))], jobs=[define_asset_job("everything")])
"""


def selecting(code: Path, number: int) -> ReconstructableJob:
    """Return the job of one asset, as a child has it from the message of a step."""
    repository = ReconstructableRepository.for_file(str(code), "defs")
    selection = frozenset({AssetKey(f"asset_{number}")})
    return ReconstructableJob(repository, "everything", asset_selection=selection)


def new_job() -> JobDefinition:
    """Return the definition of a job, which is equal to no other."""
    return GraphDefinition("new").to_job()


@pytest.mark.oldest
def test_steps_of_jobs_that_take_turns_load_each_job_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        ReconstructableJob, "get_definition", ReconstructableJob.__dict__["get_definition"]
    )
    code = tmp_path / "catalog_of_test.py"
    code.write_text(CODE)
    assert job_definitions.install()
    turns = [selecting(code, number).get_definition() for _ in range(3) for number in (0, 1)]
    assert [job.asset_layer.executable_asset_keys for job in turns[:2]] == [
        {AssetKey("asset_0")},
        {AssetKey("asset_1")},
    ]
    assert [id(job) for job in turns] == [id(turns[0]), id(turns[1])] * 3


def test_only_the_definitions_used_last_are_kept(tmp_path: Path) -> None:
    kept, loads = KeptDefinitions(), Counter[int]()

    def get(number: int) -> JobDefinition:
        def load() -> JobDefinition:
            loads[number] += 1
            return new_job()

        return kept.get(selecting(tmp_path / "code.py", number), load)

    first = get(0)
    for number in range(1, MOST_JOBS):
        get(number)
    assert get(0) is first
    get(MOST_JOBS)  # in place of 1
    assert get(0) is first
    get(1)
    assert loads == {**dict.fromkeys(range(MOST_JOBS + 1), 1), 1: 2}


def test_a_definition_is_loaded_anew_in_another_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, job = KeptDefinitions(), selecting(tmp_path / "code.py", 0)
    first = kept.get(job, new_job)
    monkeypatch.setenv("READ_BY_THE_CODE", "another value")
    second = kept.get(job, new_job)
    assert second is not first
    assert kept.get(job, new_job) is second


def test_a_definition_that_cannot_be_loaded_is_not_kept(tmp_path: Path) -> None:
    kept, job = KeptDefinitions(), selecting(tmp_path / "code.py", 0)

    def fail() -> JobDefinition:
        raise ImportError

    with pytest.raises(ImportError):
        kept.get(job, fail)
    assert kept.get(job, new_job).name == "new"


def test_where_dagster_keeps_no_definition_nothing_is_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def get_definition(self: ReconstructableJob) -> None:
        raise AssertionError

    monkeypatch.setattr(ReconstructableJob, "get_definition", get_definition)
    assert not job_definitions.install()
    assert ReconstructableJob.get_definition is get_definition
