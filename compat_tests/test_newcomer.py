"""What someone meets first: the demo, the README, and the package as it is installed."""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
from click.testing import CliRunner
from dagster import DagsterInstance, DagsterRunStatus

from compat_tests.checkout import ROOT
from compat_tests.sqs_servers import REGION, forget_on_sqs, messages_on_sqs, queues_on_sqs
from dagster_taskiq.cli import cli
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
    assert (
        f"DAGSTER_HOME={home} DAGSTER_TASKIQ_BROKER='sqs://{REGION}' "
        f"DAGSTER_TASKIQ_BACKEND='embedded://' {ENDPOINT_URL_ENV}='{sqs_endpoint}' dagster dev"
    ) in done.stdout
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


def test_the_worked_example_of_the_readme_works(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (tmp_path / "shop.py").write_text(example)
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DAGSTER_HOME": str(home)}
    # The others are for several machines.
    line = re.findall(r"^dagster-taskiq (worker start .*)$", README, re.MULTILINE)[0]
    log = tmp_path / "worker.log"
    with log.open("wb") as output:
        worker = subprocess.Popen(
            [sys.executable, "-m", "dagster_taskiq", *shlex.split(line)],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=tmp_path,
            env=environment,
        )
    try:
        (line,) = re.findall(r"^dagster (job execute .*)$", README, re.MULTILINE)
        done = subprocess.run(
            [sys.executable, "-m", "dagster", *shlex.split(line)],
            capture_output=True,
            check=False,
            text=True,
            timeout=PATIENCE,
            cwd=tmp_path,
            env=environment,
        )
        assert done.returncode == 0, done.stderr + log.read_text()
    finally:
        worker.terminate()
        assert worker.wait(30) == 0, log.read_text()
    with DagsterInstance.from_config(str(home)) as instance:
        (run,) = instance.get_runs()
        assert run.status is DagsterRunStatus.SUCCESS
        assert set(RunStory.from_event_log(instance, run.run_id).steps) == {
            "orders",
            "revenue",
            "send_report",
        }
    assert "We made 112." in log.read_text()


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


@pytest.fixture(scope="module")
def wheel_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built from a copy, since a build writes into its directory."""
    source = tmp_path_factory.mktemp("source")
    for name in ("dagster_taskiq", "dagster_celery"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    code = "from setuptools import build_meta; build_meta.build_wheel('.')"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    (path,) = source.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def wheel(wheel_path: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(wheel_path)


def test_the_wheel_has_every_file_of_both_packages(wheel: zipfile.ZipFile) -> None:
    here = {
        str(path.relative_to(ROOT))
        for name in ("dagster_taskiq", "dagster_celery")
        for path in (ROOT / name).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {name for name in wheel.namelist() if ".dist-info/" not in name} == here
    assert {"dagster_taskiq/py.typed", "dagster_celery/py.typed"} <= here
    assert any(name.endswith(".lua") for name in here)


def test_the_wheel_declares_both_scripts(wheel: zipfile.ZipFile) -> None:
    (name,) = (each for each in wheel.namelist() if each.endswith("entry_points.txt"))
    declared = wheel.read(name).decode()
    assert "dagster-taskiq = dagster_taskiq.cli:main" in declared
    assert "dagster-celery = dagster_celery._cli.main:main" in declared


def test_the_wheel_has_the_licence_and_names_it(wheel: zipfile.ZipFile) -> None:
    (name,) = (each for each in wheel.namelist() if each.endswith("/METADATA"))
    metadata = message_from_bytes(wheel.read(name))
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Author"] == "The dagster-taskiq developers"
    assert metadata.get_all("License-File") == ["LICENSE"]
    (name,) = (each for each in wheel.namelist() if each.endswith("/licenses/LICENSE"))
    assert wheel.read(name) == (ROOT / "LICENSE").read_bytes()


def test_the_wheel_in_an_environment_without_this_checkout_has_both_commands(
    wheel_path: Path, tmp_path: Path
) -> None:
    environment = tmp_path / "environment"
    venv.create(environment, symlinks=True)
    python = environment / "bin" / "python"
    libraries = sysconfig.get_path("purelib", vars={"base": str(environment)})
    install = [sys.executable, "-m", "pip", "--python", str(python), "install"]
    command = [*install, "--no-index", "--no-deps", "--no-compile", str(wheel_path)]
    subprocess.run(command, check=True, capture_output=True)
    # The requirements are those of this environment. A directory in a .pth file has no .pth files
    # of its own, so that the checkout, which is installed by one, can not be imported.
    requirements = sysconfig.get_path("purelib")
    (Path(libraries) / "requirements.pth").write_text(f"{requirements}\n")
    code = "import dagster_taskiq, dagster_celery as c; print(dagster_taskiq.__file__, c.__file__)"
    bare = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    for line, expected in (
        ([str(python), "-c", code], f"{libraries}/dagster_taskiq/__init__.py"),
        ([str(environment / "bin" / "dagster-taskiq"), "--help"], "Usage: dagster-taskiq"),
        ([str(environment / "bin" / "dagster-celery"), "--help"], "Usage: dagster-celery"),
    ):
        done = subprocess.run(
            line, capture_output=True, check=False, text=True, cwd=tmp_path, env=bare
        )
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout
