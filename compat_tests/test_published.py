"""What is published: the sources, the wheel that is built from them, and what it does elsewhere."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Callable
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest
from dagster import DagsterInstance, DagsterRunStatus

from compat_tests.checkout import ROOT
from compat_tests.facade.installing import Place, new_place
from dagster_taskiq.demo.story import RunStory
from dagster_taskiq.version import __version__

README = (ROOT / "README.md").read_text()
#: How long a command may take on a machine that has other things to do, in seconds.
PATIENCE = 150
#: What serves the repository alone, and is not in the sources.
OF_THE_REPOSITORY = (".ci/", ".github/", ".gitignore", ".readthedocs.yaml")
#: Where the files of a release can be read: pages, and images as they are.
ON_GITHUB = (
    rf"https://(?:github\.com|raw\.githubusercontent\.com)/[\w-]+/[\w-]+/(?:blob/)?v{__version__}/"
)


def files_of_checkout() -> list[str]:
    """Return the paths of all files but those that git is to ignore, from the root."""
    if not (ROOT / ".git").exists():
        # These are the sources that were published, with what tests have left in them.
        listing = ROOT / "dagster_taskiq.egg-info" / "SOURCES.txt"
        return listing.read_text().splitlines()
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return [path for path in listed.stdout.split("\0") if (ROOT / path).is_file()]


def build(what: str, directory: Path, into: Path) -> Path:
    """Build the sources (``sdist``) or a wheel of a directory, as an installer has it done."""
    code = f"from setuptools import build_meta; print(build_meta.build_{what}({str(into)!r}))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True)
    return into / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dist")


@pytest.fixture(scope="module")
def sdist(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources of this checkout, built from a copy, since a build writes into its directory."""
    copy = tmp_path_factory.mktemp("copy")
    for path in files_of_checkout():
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, copy / path)
    return build("sdist", copy, dist)


@pytest.fixture(scope="module")
def sources(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with the unpacked sources."""
    directory = tmp_path_factory.mktemp("sources")
    with tarfile.open(sdist) as packed:
        packed.extractall(directory, filter="data")
    return directory / f"dagster_taskiq-{__version__}"


@pytest.fixture(scope="module")
def wheel_path(dist: Path, sources: Path) -> Path:
    return build("wheel", sources, dist)


@pytest.fixture(scope="module")
def wheel(wheel_path: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(wheel_path)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (each for each in wheel.namelist() if each.endswith("/METADATA"))
    return message_from_bytes(wheel.read(name))


def test_the_sources_have_every_file_of_the_checkout(sources: Path) -> None:
    wanted = {each for each in files_of_checkout() if not each.startswith(OF_THE_REPOSITORY)}
    assert {"compat_tests/conftest.py", "docs/explanation/how-it-works.md", "Makefile"} <= wanted
    assert {each for each in wanted if not (sources / each).exists()} == set()


def test_the_wheel_has_every_file_of_both_packages(wheel: zipfile.ZipFile) -> None:
    here = {
        str(path.relative_to(ROOT))
        for name in ("dagster_taskiq", "dagster_celery")
        for path in (ROOT / name).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {name for name in wheel.namelist() if ".dist-info/" not in name} == here
    assert {"dagster_taskiq/py.typed", "dagster_celery/py.typed"} <= here
    assert {".lua", ".sql", ".html", ".js", ".css"} <= {Path(name).suffix for name in here}


def test_the_wheel_declares_both_scripts(wheel: zipfile.ZipFile) -> None:
    (name,) = (each for each in wheel.namelist() if each.endswith("entry_points.txt"))
    declared = wheel.read(name).decode()
    assert "dagster-taskiq = dagster_taskiq.cli:main" in declared
    assert "dagster-celery = dagster_celery._cli.main:main" in declared


def test_the_wheel_has_the_licence_and_names_it(wheel: zipfile.ZipFile, metadata: Message) -> None:
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Author"] == "The dagster-taskiq developers"
    assert metadata.get_all("License-File") == ["LICENSE"]
    (name,) = (each for each in wheel.namelist() if each.endswith("/licenses/LICENSE"))
    assert wheel.read(name) == (ROOT / "LICENSE").read_bytes()


def test_a_package_index_takes_both_files(sdist: Path, wheel_path: Path) -> None:
    command = [sys.executable, "-m", "twine", "check", "--strict", str(sdist), str(wheel_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_links_of_the_readme_lead_somewhere_from_a_package_index(metadata: Message) -> None:
    shown = str(metadata.get_payload())
    links = re.findall(r"\]\(([^)]*)\)", shown)
    assert len(links) == len(re.findall(r"\]\(([^)]*)\)", README))
    ours = [re.sub(ON_GITHUB, "", link) for link in links if re.match(ON_GITHUB, link)]
    assert {"docs/images/demo-run.png", "docs/how-to/migration.md", "examples"} <= set(ours)
    for path in ours:
        assert (ROOT / path.partition("#")[0]).exists(), path
    others = [link for link in links if not re.match(ON_GITHUB, link)]
    assert all(link.startswith("https://") for link in others), others
    images = re.findall(r"!\[[^]]*\]\(([^)]*)\)", shown)
    assert images and all(each.startswith("https://raw.githubusercontent.com/") for each in images)


def with_the_packages_of_the_tests(place: Place, request: pytest.FixtureRequest) -> None:
    """Its requirements are those of this environment, which :func:`place` has beside it."""
    wheel = request.getfixturevalue("wheel_path")
    place.uv("install", "--no-index", "--no-deps", str(wheel))


def with_what_it_requires(place: Place, request: pytest.FixtureRequest) -> None:
    """As the README says for a clone; pip finds everything else."""
    place.pip("install", "--quiet", ".", directory=request.getfixturevalue("sources"))


@pytest.fixture(
    scope="module",
    params=[
        with_the_packages_of_the_tests,
        pytest.param(
            with_what_it_requires,
            marks=pytest.mark.test_all("that all is required is held by test_dependencies.py"),
        ),
    ],
    ids=["beside", "alone"],
)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """An environment in which this checkout cannot be imported, with the project installed."""
    install: Callable[[Place, pytest.FixtureRequest], None] = request.param
    # A directory in a .pth file has no .pth files of its own, and the checkout is installed by one.
    packages = Path(sysconfig.get_path("purelib"))
    also = packages if install is with_the_packages_of_the_tests else None
    place = new_place(tmp_path_factory.mktemp("place") / "venv", also)
    install(place, request)
    return place


def environment(place: Place, home: Path) -> dict[str, str]:
    """Return the variables of a user whose home directory is ``home``."""
    path = os.pathsep.join([str(Path(place.python).parent), os.environ["PATH"]])
    return {"PATH": path, "HOME": str(home), "DAGSTER_DISABLE_TELEMETRY": "1"}


def test_the_wheel_has_both_commands_and_both_packages(place: Place, tmp_path: Path) -> None:
    code = "import dagster_taskiq as t, dagster_celery as c; print(t.__file__, c.__file__)"
    for file in place.run(code).stdout.split():
        assert Path(file).is_relative_to(place.directory)
    for command in ("dagster-taskiq", "dagster-celery"):
        done = subprocess.run(
            [command, "--help"],
            env=environment(place, tmp_path),
            check=True,
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        assert f"Usage: {command}" in done.stdout


def test_the_worked_example_of_the_readme_works(place: Place, tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (tmp_path / "shop.py").write_text(example)
    commands = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    (first,) = (each for each in commands if each.startswith("export DAGSTER_HOME="))
    (second,) = (each for each in commands if each.startswith("dagster job execute "))
    # The shell becomes the worker, so that a signal reaches it.
    first = first.replace("\ndagster-taskiq worker", "\nexec dagster-taskiq worker")
    # The command `dagster` is where Dagster was installed.
    second = re.sub(r"^dagster ", f"{place.python} -m dagster ", second)
    variables, log = environment(place, tmp_path), tmp_path / "worker.log"
    home = tmp_path / "dagster_home"
    with log.open("wb") as output:
        worker = subprocess.Popen(
            ["sh", "-ec", first],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=tmp_path,
            env=variables,
        )
    try:
        done = subprocess.run(
            ["sh", "-ec", second],
            capture_output=True,
            check=False,
            text=True,
            timeout=PATIENCE,
            cwd=tmp_path,
            env={**variables, "DAGSTER_HOME": str(home)},
        )
        assert done.returncode == 0, done.stderr + log.read_text()
    finally:
        worker.terminate()
        assert worker.wait(30) == 0, log.read_text()
    with DagsterInstance.from_config(str(home)) as instance:
        (run,) = instance.get_runs()
        assert run.status is DagsterRunStatus.SUCCESS
        steps = RunStory.from_event_log(instance, run.run_id).steps
        assert set(steps) == {"orders", "send_report"}
    assert "We made 112." in log.read_text()
