"""Which jobs want another Python environment than that of the process that got them."""

import sys
from pathlib import Path

import pytest
from dagster import reconstructable
from dagster._core.origin import JobPythonOrigin

from compat_tests.executor.jobs import urgent
from compat_tests.other_environments import given, venv
from dagster_taskiq.errors import CodeLoadError
from dagster_taskiq.execution.python_environments import check_environment, environment_of


def job_given(executable: str, explicit: bool = True) -> JobPythonOrigin:
    return given(reconstructable(urgent).get_python_origin(), executable, explicit)


def test_an_environment_is_known_by_its_interpreter(tmp_path: Path) -> None:
    assert environment_of(sys.executable) == Path(sys.prefix).resolve()
    assert environment_of(venv(tmp_path / "other")) == (tmp_path / "other").resolve()
    (tmp_path / "linked").symlink_to("other")
    assert environment_of(f"{tmp_path}/linked/bin/python") == (tmp_path / "other").resolve()
    # A link from elsewhere is no virtual environment, to Python neither.
    (tmp_path / "python").symlink_to(Path(sys.base_prefix) / "bin" / "python3")
    assert environment_of(str(tmp_path / "python")) == Path(sys.base_prefix).resolve()
    assert environment_of(str(tmp_path / "gone")) is None


def test_a_job_whose_code_location_was_given_another_environment_is_refused(
    tmp_path: Path,
) -> None:
    other = venv(tmp_path / "other")
    with pytest.raises(CodeLoadError) as caught:
        check_environment(job_given(other))
    for words in (f"executable_path: {other}", sys.prefix, f"{other} -m dagster_taskiq worker"):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    "executable",
    [
        pytest.param(sys.executable, id="the worker's own"),
        pytest.param(f"{sys.prefix}/bin/../bin/python", id="the worker's own, another path"),
        pytest.param(f"{sys.base_prefix}/bin/python3", id="what the worker's is built on"),
        pytest.param("/venvs/on-another-machine/bin/python", id="not on this machine"),
    ],
)
def test_a_job_whose_environment_may_be_the_workers_is_let_through(executable: str) -> None:
    check_environment(job_given(executable))


def test_an_interpreter_that_was_not_configured_is_not_logged(tmp_path: Path) -> None:
    # What every code server reports of itself, on any machine and in any image.
    check_environment(job_given(venv(tmp_path / "other"), explicit=False))
