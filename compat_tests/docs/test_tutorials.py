"""The tutorials are walked: what they have one type is done, and what they show appears."""

from collections.abc import Callable, Sequence
from pathlib import Path

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

    def errors(self) -> Sequence[str]:
        """Return the errors of the last run's events."""
        return self.web.errors(self.runs[-1])


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


@pytest.mark.test_all("two environments and a PostgreSQL: minutes; a push walks the first job")
def test_a_second_machine_is_added_as_its_tutorial_says(tmp_path: Path) -> None:
    first, second = tmp_path / "north", tmp_path / "south"
    port, password = str(free_port()), "s3cretwords"
    ui = Ui(port)
    with own_postgres() as server:
        # Nobody is let in but the tests themselves, who are the administrator.
        rules = server.directory / "data" / "pg_hba.conf"
        rules.write_text("host all postgres 127.0.0.1/32 trust\n")
        administrator = f"env PGHOST=127.0.0.1 PGPORT={server.port} PGUSER=postgres "
        values = {
            "sudo apt-get install -y postgresql": ":",
            "sudo systemctl restart postgresql": (
                f'{administrator} psql -c "SELECT pg_reload_conf()"'
            ),
            "sudo -u postgres ": administrator,
            "sudo tee": "tee",
            "10.0.0.0/24": "127.0.0.1/32",
            "scp ": "cp ",
            "10.0.0.1:shop": str(first / "shop"),
            "10.0.0.1": "127.0.0.1",
            "5432": str(server.port),
            "3000": port,
            "change-me": password,
        }
        answers = {"Enter password for new role": password, "Enter it again": password}
        page = TUTORIALS / "second-machine.md"
        with walking(page, [first, second], values, answers) as walk:
            walk.section("Set up PostgreSQL")
            walk.section("Write the project")
            walk.section("Start the first machine")
            walk.section("Start the second machine")
            walk.section("Run a job on both", launch=ui.launching("ship"))
            ui.wait_for_status("SUCCESS")
            done = ui.messages()
            for worker in ("north", "south"):
                assert any(f'Worker {worker} started step "weigh[' in each for each in done)
            heading = "Switch a machine off"
            launch = ui.launching("count_stock")
            walk.section(heading, launch=launch, terminate=ui.terminate)
            ui.wait_for_status("CANCELED")
            assert any("south" in each and "LOST" in each for each in ui.errors())
            assert password not in walk.shown()
