"""The example project of users' own tasks runs by the commands of its README."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from compat_tests.checkout import ROOT
from compat_tests.servers import free_port
from compat_tests.waiting import eventually

EXAMPLE = ROOT / "examples" / "own_tasks"

#: It starts half a dozen processes that import Dagster.
pytestmark = pytest.mark.timeout(300)


class Project:
    """A copy of the project, in an environment that has all that it needs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "own_tasks"
        kept = shutil.ignore_patterns("home", "__pycache__", ".pytest_cache")
        shutil.copytree(EXAMPLE, self.directory, ignore=kept)
        programs = str(Path(sys.executable).parent)
        mine = {name: value for name, value in os.environ.items() if "DAGSTER" not in name}
        path = f"{programs}{os.pathsep}{mine['PATH']}"
        self.environment = {**mine, "PATH": path, "PORT": str(free_port())}

    def run(self, command: str) -> str:
        """Run a command of the README, and return what it prints."""
        done = subprocess.run(
            command.split(),
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    @contextmanager
    def running(self, command: str) -> Iterator[None]:
        """Run a command that goes on until Ctrl-C, and see that nothing is left of it then."""
        log = self.directory / "output.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                command.split(),
                cwd=self.directory,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield
            children = psutil.Process(process.pid).children(recursive=True)
        finally:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(60)
        eventually(lambda: not any(each.is_running() for each in children), log.read_text())


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def commands() -> list[str]:
    """Return the commands of the README, without that which installs the project."""
    readme = (EXAMPLE / "README.md").read_text()
    return re.findall(r"^(make \w+)", readme, re.MULTILINE)


def test_the_examples_own_tests_pass(project: Project) -> None:
    assert commands() == ["make test", "make up", "make try", "make report"]
    assert re.search(r"\n\d+ passed", project.run(commands()[0]))


@pytest.mark.test_all("the contract of own tasks, and the tests of schedules and of the web")
def test_the_example_runs_by_the_commands_of_its_readme(project: Project) -> None:
    _, up, ask, report = commands()
    with project.running(up):
        assert "harbour: {'state': 'SUCCESS', 'value': 1}" in project.run(ask)
        written = project.run(report)
    assert "north: 3 bikes\nsouth: 5 bikes\nharbour: 0 bikes" in written
