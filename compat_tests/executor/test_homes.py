"""Dagster homes in which no worker and no run can meet: temporary, relative, or not there."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dagster import DagsterInstance, DagsterRunStatus
from dagster._cli.utils import TMP_DAGSTER_HOME_PREFIX, get_possibly_temporary_instance_for_cli

from compat_tests.executor import jobs
from compat_tests.executor.runs import House
from compat_tests.executor.scratch import Scratch
from dagster_taskiq.dagster_internals.temporary_instance import TEMPORARY_HOME_PREFIX
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.launcher import TaskiqRunLauncher
from dagster_taskiq.runs.checked_runs import CheckedRuns
from dagster_taskiq.runs.launched_runs import LaunchedRuns
from dagster_taskiq.settings.embedded import EMBEDDED_URL
from dagster_taskiq.settings.env import read_home
from dagster_taskiq.settings.settings import Settings


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DagsterInstance]:
    """The instance of Dagster's own commands where no home is set."""
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    with get_possibly_temporary_instance_for_cli() as instance:
        yield instance


def test_the_directory_of_a_temporary_instance_is_named_as_dagster_names_it() -> None:
    assert TEMPORARY_HOME_PREFIX == TMP_DAGSTER_HOME_PREFIX


def test_a_run_in_a_temporary_instance_does_not_wait_at_its_embedded_broker(
    temporary: DagsterInstance, scratch: Scratch
) -> None:
    outcome = House(Settings(broker=EMBEDDED_URL), temporary).run(jobs.urgent, scratch)
    assert outcome.status is DagsterRunStatus.FAILURE
    said = outcome.run_failure()
    for words in ("DAGSTER_HOME is not set", temporary.root_directory, "DAGSTER_TASKIQ_BROKER"):
        assert words in said
    assert not list(Path(temporary.root_directory).rglob("queue.db"))


def test_a_temporary_instance_launches_nothing_onto_its_embedded_broker(
    temporary: DagsterInstance,
) -> None:
    with pytest.raises(ConfigError, match="DAGSTER_HOME is not set"):
        LaunchedRuns(temporary, Settings(), CheckedRuns(), (), TaskiqRunLauncher)
    with pytest.raises(ConfigError, match="DAGSTER_HOME is not set"):
        LaunchedRuns(
            temporary,
            Settings(broker="redis://host", backend=EMBEDDED_URL),
            CheckedRuns(),
            (),
            TaskiqRunLauncher,
        )


def test_workers_of_the_machine_serve_a_temporary_instance_and_the_run_says_so(
    temporary: DagsterInstance, house_of_kind: Callable[[str], House], scratch: Scratch
) -> None:
    outcome = House(house_of_kind("embedded").settings, temporary).run(jobs.urgent, scratch)
    assert outcome.status is DagsterRunStatus.SUCCESS
    assert outcome.says("DAGSTER_HOME is not set", "only workers on this machine")


@pytest.mark.parametrize(
    ("home", "words"),
    [
        ("here", "must be the absolute path of a directory"),
        ("./here", "must be the absolute path of a directory"),
        ("DIRECTORY/nowhere", 'nowhere" is not a directory or does not exist'),
        ("DIRECTORY/file", 'file" is not a directory or does not exist'),
    ],
)
def test_a_home_that_is_relative_or_missing_is_refused_as_by_dagster(
    home: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", home.replace("DIRECTORY", str(tmp_path)))
    with pytest.raises(ConfigError, match=words):
        Settings().resolved()
    with pytest.raises(Exception, match=r"must be an absolute path|is not a directory"):
        DagsterInstance.get()
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_home_may_begin_with_a_tilde_and_an_empty_one_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DAGSTER_HOME", "~")
    assert read_home() == tmp_path
    monkeypatch.setenv("DAGSTER_HOME", "")
    assert read_home() is None
