"""The wheel that stands in for dagster-celery, as a file: what is in it, and how it is written."""

import base64
import hashlib
import subprocess
import sys
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
import tomli
from click.testing import CliRunner

from compat_tests.checkout import ROOT
from compat_tests.facade.installing import make_dist
from dagster_taskiq.cli.commands import cli
from dagster_taskiq.distribution.releases import NEWEST, SUPPORTED, is_stand_in
from legacy_tests import sdists

EXTRAS = tomli.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def write(*arguments: str) -> list[Path]:
    done = CliRunner().invoke(cli, ["stand-in", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return [Path(line) for line in done.output.splitlines()]


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def test_it_has_metadata_alone_and_a_true_record_of_it(tmp_path: Path) -> None:
    (path,) = write("-o", str(tmp_path))
    assert path == tmp_path / f"dagster_celery-{NEWEST}+taskiq-py3-none-any.whl"
    files = contents(path)
    info = f"dagster_celery-{NEWEST}+taskiq.dist-info"
    assert list(files) == [f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD")]
    record = files[f"{info}/RECORD"].decode().splitlines()
    assert record.pop() == f"{info}/RECORD,,"
    for line, (name, content) in zip(record, files.items(), strict=False):
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        assert line == f"{name},sha256={digest},{len(content)}"
    assert len(record) == 2


def test_it_requires_this_project_with_the_extras_of_the_original(tmp_path: Path) -> None:
    (path,) = write("-o", str(tmp_path), "--version", "0.29.3")
    metadata = message_from_string(
        next(text for name, text in contents(path).items() if "METADATA" in name).decode()
    )
    assert (metadata["Name"], metadata["Version"]) == ("dagster-celery", "0.29.3+taskiq")
    assert is_stand_in(metadata["Version"]) and not is_stand_in("0.29.3")
    extras = metadata.get_all("Provides-Extra")
    assert extras == ["flower", "kubernetes", "redis"] and set(extras) <= set(EXTRAS)
    assert metadata.get_all("Requires-Dist") == [
        "dagster-taskiq",
        *(f'dagster-taskiq[{extra}]; extra == "{extra}"' for extra in extras),
    ]


def test_its_bytes_are_the_same_each_time(tmp_path: Path) -> None:
    (one,) = write("-o", str(tmp_path / "one"))
    (two,) = write("-o", str(tmp_path / "two"))
    assert one.read_bytes() == two.read_bytes()
    # They are on every machine: whoever has written down the hash gets what it is of.
    digest = hashlib.sha256(write("-o", str(tmp_path), "--version", "0.29.27")[0].read_bytes())
    assert digest.hexdigest() == "e7f87345cb66f98d67a97145ba77197164277fea3ee52b44ac6f404e0dc622b4"


def test_there_is_one_for_each_release_that_the_tests_know(tmp_path: Path) -> None:
    written = write("-o", str(tmp_path), "--all")
    assert sorted(tmp_path.iterdir()) == sorted(written)
    assert len(written) == len(SUPPORTED)
    assert (SUPPORTED[0], SUPPORTED[-1]) == (sdists.OLDEST.version, sdists.NEWEST.version)
    assert SUPPORTED[-1] == NEWEST


@pytest.mark.parametrize("release", ["", "0.29.27+taskiq", "0.29.x", "../0.29.27", "029"])
def test_what_is_no_release_is_refused_by_name(release: str, tmp_path: Path) -> None:
    options = ["--version", release, "-o", str(tmp_path)]
    command = [sys.executable, "-m", "dagster_taskiq", "stand-in", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f'Error: "{release}" is no release of dagster-celery.')
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = CliRunner().invoke(cli, ["stand-in", "-o", str(tmp_path / "file" / "below")])
    assert done.exit_code != 0
    assert "cannot be written (Not a directory)" in str(done.exception)


def test_the_command_does_not_wait_for_dagster() -> None:
    code = "import sys, dagster_taskiq.cli.stand_in; print('dagster' in sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.test_all("the commands that it calls, and the files of test_published.py")
def test_make_dist_builds_all_that_is_published(tmp_path: Path) -> None:
    make_dist(tmp_path / "dist")
    stand_ins = {f"dagster_celery-{each}+taskiq-py3-none-any.whl" for each in SUPPORTED}
    others = {each.name for each in (tmp_path / "dist").iterdir()} - stand_ins
    assert {name.partition("-")[0] for name in others} == {"dagster_taskiq"}
