"""A tutorial is walked: what it has one type is done, and what it shows appears."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2
import pytest

from compat_tests.checkout import ROOT
from compat_tests.docs.walking import PATIENCE, walking
from compat_tests.servers import free_port, own_postgres
from compat_tests.waiting import eventually
from compat_tests.webserver import Webserver

TUTORIALS = ROOT / "docs" / "tutorials"
#: Where the reader of the pages is at home.
HOME = "/home/ana"

#: Each starts a dozen processes that import Dagster.
pytestmark = pytest.mark.timeout(400)


class Ui:
    """Dagster's UI, in which the reader launches and terminates runs."""

    def __init__(self, port: str) -> None:
        self.web = Webserver(f"http://127.0.0.1:{port}")
        self.runs: list[str] = []

    def launching(self, job: str) -> Callable[[], None]:
        def launch() -> None:
            eventually(self.web.is_up, timeout=PATIENCE)
            self.runs.append(self.web.launch(job))

        return launch

    def terminate(self) -> None:
        self.web.terminate(self.runs[-1])

    def wait_for_step(self) -> None:
        """Wait until a step of the last run has started."""
        eventually(
            lambda: any("Started execution of step" in each for each in self.messages()),
            timeout=PATIENCE,
        )

    def wait_for_status(self, status: str) -> None:
        self.web.wait_for_status(self.runs[-1], status, PATIENCE)

    def messages(self) -> Sequence[str]:
        """Return the texts of the last run's events."""
        return self.web.messages(self.runs[-1])


def test_the_first_job_is_as_its_tutorial_says(tmp_path: Path) -> None:
    port = str(free_port())
    values = {"3000": port, "9580": str(free_port()), HOME: str(tmp_path)}
    ui = Ui(port)

    def launch_the_long_one() -> None:
        ui.launching("count_stock")()
        ui.wait_for_step()

    with walking(TUTORIALS / "first-job.md", [tmp_path], values) as walk:
        walk.section("Install")
        walk.section("Write a job")
        walk.section("Start a worker")
        walk.section("Run the job", launch=ui.launching("daily_report"))
        ui.wait_for_status("SUCCESS")
        walk.section("Look at the fleet", launch=launch_the_long_one)
        walk.section("Kill a step")
        walk.section("Terminate the run", terminate=ui.terminate)
        ui.wait_for_status("CANCELED")
        walk.section("Stop")


@contextmanager
def database_of_the_page() -> Iterator[str]:
    """Do what the page has the reader do with PostgreSQL; yield the port on which it serves."""
    with own_postgres() as server:
        for statement in (
            "CREATE ROLE dagster LOGIN PASSWORD 'change-me'",
            "CREATE DATABASE dagster OWNER dagster",
        ):
            with closing(psycopg2.connect(server.url)) as connection:
                connection.autocommit = True
                connection.cursor().execute(statement)
        yield str(server.port)


@pytest.mark.test_all("the first tutorial, and test_deployed_examples.py with several hosts")
def test_a_second_machine_is_as_its_tutorial_says(tmp_path: Path) -> None:
    web_port = str(free_port())
    homes = [tmp_path / "north", tmp_path / "south"]
    with database_of_the_page() as port:
        values = {"10.0.0.1": "127.0.0.1", "5432": port, "3000": web_port}
        ui = Ui(web_port)
        with walking(TUTORIALS / "second-machine.md", homes, values) as walk:
            walk.skip("Set up PostgreSQL")
            walk.section("Write the project")
            walk.section("Start the first machine")
            walk.section("Start the second machine")
            walk.section("Run a job on both", launch=ui.launching("ship"))
            ui.wait_for_status("SUCCESS")
            starts = re.findall(r"Worker (\w+) started step .weigh", "\n".join(ui.messages()))
            assert set(starts) == {"north", "south"}
            walk.section(
                "Switch a machine off",
                launch=ui.launching("count_stock"),
                terminate=ui.terminate,
            )
            ui.wait_for_status("CANCELED")
            lost = r"Worker south \(.*\), which ran it, has been silent for \d+ s, longer than"
            assert re.search(lost, "\n".join(ui.messages()))


def test_a_project_migrates_as_its_tutorial_says(tmp_path: Path) -> None:
    with walking(TUTORIALS / "migrate-a-project.md", [tmp_path]) as walk:
        for heading in walk.left():
            walk.section(heading)
