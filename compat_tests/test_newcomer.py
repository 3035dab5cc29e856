"""What someone meets first: the demo, the README, and the package as it is installed."""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from dagster import DagsterInstance

from compat_tests.checkout import ROOT
from compat_tests.sqs_servers import REGION, forget_on_sqs, messages_on_sqs, queues_on_sqs
from dagster_taskiq.cli.commands import cli
from dagster_taskiq.demo.story import Outcome, RunStory
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.sqs_names import ENDPOINT_URL_ENV, QUEUE_URL_ENV

README = (ROOT / "README.md").read_text()
#: How long a command may take on a machine that has other things to do, in seconds.
PATIENCE = 150


def run_demo(directory: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "dagster_taskiq", "demo", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(directory)}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, cwd=directory, env=environment
    ) as process:
        try:
            output, errors = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.terminate()  # and not kill: it has a worker to end
            raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


@pytest.mark.oldest
def test_the_demo_says_what_happened_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = run_demo(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for line in (
        r"weigh_parcel\[bells\]: to retry: the step asked for it",
        r"weigh_parcel\[drums\]: to retry: .*SIGKILL",
        r"weigh_parcel\[drums\]: started again, attempt 2",
        r"sail: skipped",
        r"demo-worker\tidle",
        r"ship_parcels: SUCCESS",
        r"drive\tsucceeded\t1",
        r"(\d) of \1 facts hold",
    ):
        assert re.search(line, done.stdout), f"{line}\n{done.stdout}"
    assert "Traceback" not in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["redis", "rabbitmq"])
@pytest.mark.test_all("the demo on its own broker")
def test_the_demo_runs_on_another_broker_and_can_be_looked_at(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(f"{kind}_url")
    done = run_demo(tmp_path, "--broker", url, "--keep")
    assert done.returncode == 0, done.stdout + done.stderr
    (home,) = tmp_path.iterdir()
    assert f"Kept: {home}" in done.stdout
    with DagsterInstance.from_config(str(home)) as instance:
        story = RunStory.from_event_log(instance, instance.get_runs()[0].run_id)
    assert story.steps["sail"].outcome is Outcome.SKIPPED
    assert url not in (home / "worker.yaml").read_text()


@pytest.mark.test_all("executor/test_sqs_configuration.py")
def test_the_demo_runs_on_sqs_with_its_state_in_a_file(
    tmp_path: Path, sqs_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENDPOINT_URL_ENV, sqs_endpoint)
    monkeypatch.setenv(QUEUE_URL_ENV, "https://sqs.eu-west-1.amazonaws.com/1/not-for-demos")
    done = run_demo(tmp_path, "--broker", f"sqs://{REGION}", "--keep")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Example project dagster_taskiq.demo.project on sqs://{REGION}" in done.stdout
    assert re.search(r"(\d) of \1 facts hold", done.stdout)
    (home,) = tmp_path.iterdir()
    (command,) = re.findall(rf"  (DAGSTER_HOME={home} .*) dev -m \S+\n", done.stdout)
    *variables, program = shlex.split(command)
    assert shutil.which(program)
    assert variables[1:] == [
        f"DAGSTER_TASKIQ_BROKER=sqs://{REGION}",
        "DAGSTER_TASKIQ_BACKEND=embedded://",
        f"{ENDPOINT_URL_ENV}={sqs_endpoint}",
    ]
    # That its state is in a file is meant: only the log of its worker has the warning, once.
    assert "is a file on this machine" not in done.stdout + done.stderr
    logs = [log.read_text() for log in home.glob("*.log")]
    assert "".join(logs).count("is a file on this machine") == 1
    (left,) = re.findall(r"The empty queues of the demo stay on SQS: (\S+)-\*\n", done.stdout)
    assert f"{left}-dagster" in {
        url.rpartition("/")[2] for url in queues_on_sqs(sqs_endpoint, left)
    }
    assert not messages_on_sqs(sqs_endpoint, left)
    forget_on_sqs(sqs_endpoint, left)


def test_the_demo_refuses_a_broker_without_workers() -> None:
    done = CliRunner().invoke(cli, ["demo", "--broker", "memory://"])
    assert done.exit_code == 2
    assert "has no workers" in done.output


def test_a_demo_without_a_place_for_its_files_says_so_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(prefix: str) -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    # Root, whom the tests may run as, can write to any directory.
    monkeypatch.setattr("dagster_taskiq.demo.home.tempfile.mkdtemp", fail)
    done = CliRunner().invoke(cli, ["demo"])
    assert isinstance(done.exception, ConfigError)
    assert "No usable temporary directory" in str(done.exception)
    assert "Set TMPDIR" in str(done.exception)


def test_the_engine_has_never_heard_of_celery() -> None:
    for path in (ROOT / "dagster_taskiq").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert name.partition(".")[0] not in ("dagster_celery", "celery", "kombu"), path
