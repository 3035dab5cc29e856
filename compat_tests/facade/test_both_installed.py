"""If dagster-celery is installed with this project, an import warns, with what to do.

Both bring files of the same names: which of them are there depends on who was installed last, and
uninstalling either takes files of the other away.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from compat_tests.checkout import ROOT

#: The two lines that repair it, in this order.
MENDED_BY = (
    "pip uninstall -y dagster-celery",
    "pip install --force-reinstall --no-deps dagster-taskiq",
)
#: What has the published one stay away, where a library requires it.
STANDS_IN = (
    "dagster-taskiq stand-in --version 0.29.27 -o wheels",
    "pip install --no-index --find-links wheels dagster-celery==0.29.27",
)

#: The beginning of what dagster-celery has as the first file of the package.
CELERYS = "from dagster_celery.executor import celery_executor\n"


def imported(
    code: str, site: Path, path: Sequence[Path] = ()
) -> "subprocess.CompletedProcess[str]":
    """Run code in a process to which distributions in the directory ``site`` are installed.

    Args:
        code: the code.
        site: the directory.
        path: the import path, instead of the checkout and ``site``.
    """
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("PYTHON")},
        "PYTHONPATH": os.pathsep.join(map(str, path or (ROOT, site))),
    }
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=site,
        capture_output=True,
        text=True,
        check=False,
    )


def install(name: str, site: Path, version: str = "0.29.27") -> None:
    """Leave what an installer leaves of a distribution, without its modules."""
    directory = site / f"{name.replace('-', '_')}-{version}.dist-info"
    directory.mkdir()
    metadata = (
        f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\nRequires-Dist: celery>=4.3\n"
    )
    (directory / "METADATA").write_text(metadata)
    (directory / "INSTALLER").write_text("pip\n")
    (directory / "RECORD").write_text("dagster_celery/__init__.py,,\n")


def test_a_leftover_distribution_warns_with_what_repairs_it(tmp_path: Path) -> None:
    install("dagster-celery", tmp_path)
    done = imported("import dagster_celery, dagster_celery.tags", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("UserWarning: dagster-celery") == 1, done.stderr
    first, second = (done.stderr.find(line) for line in MENDED_BY)
    assert 0 < first < second, done.stderr
    assert "0.29.27" in done.stderr


def test_it_is_a_warning_that_can_be_made_an_error_or_silenced(tmp_path: Path) -> None:
    install("dagster-celery", tmp_path)
    code = "import warnings; warnings.simplefilter({!r}, UserWarning); import dagster_celery"
    silenced = imported(code.format("ignore"), tmp_path)
    assert (silenced.returncode, silenced.stderr) == (0, "")
    error = imported(code.format("error"), tmp_path)
    assert error.returncode == 1
    assert "UserWarning: dagster-celery" in error.stderr


def test_without_a_leftover_distribution_nothing_warns(tmp_path: Path) -> None:
    install("dagster-celery-docker", tmp_path)
    done = imported("import dagster_celery", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_stands_in_for_it_does_not_warn(tmp_path: Path) -> None:
    install("dagster-celery", tmp_path, "0.29.27+taskiq")
    install("dagster-celery-k8s", tmp_path)
    done = imported("import dagster_celery, dagster_taskiq", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("library", ["dagster-celery-k8s", "dagster-celery-docker"])
def test_where_a_library_requires_it_the_stand_in_is_named(library: str, tmp_path: Path) -> None:
    install("dagster-celery", tmp_path)
    alone = imported("import dagster_celery", tmp_path)
    assert "stand-in" not in alone.stderr
    install(library, tmp_path)
    done = imported("import dagster_celery", tmp_path)
    places = [done.stderr.find(line) for line in (*MENDED_BY, *STANDS_IN)]
    assert places == sorted(places) and places[0] > 0, done.stderr


def test_importing_the_newer_name_does_not_warn_while_the_files_are_ours(tmp_path: Path) -> None:
    install("dagster-celery", tmp_path)
    done = imported("import dagster_taskiq", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_newer_name_warns_once_where_the_files_are_celerys(tmp_path: Path) -> None:
    """The package cannot: it is the published one, and works."""
    install("dagster-celery", tmp_path)
    (tmp_path / "dagster_celery").mkdir()
    (tmp_path / "dagster_celery" / "__init__.py").write_text(CELERYS)
    code = "import sys, dagster_taskiq, dagster_taskiq.tags; print('dagster_celery' in sys.modules)"
    done = imported(code, tmp_path, path=(tmp_path, ROOT))
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr
    assert done.stderr.count("UserWarning: ") == 1, done.stderr
    assert f"<string>:1: UserWarning: {tmp_path / 'dagster_celery'} is not the" in done.stderr
    places = [done.stderr.find(line) for line in MENDED_BY]
    assert places == sorted(places) and places[0] > 0, done.stderr


def test_the_newer_name_warns_where_our_files_were_removed(tmp_path: Path) -> None:
    """So it is after the original was uninstalled, or replaced by pip by what stands in for it."""
    install("dagster-celery", tmp_path, "0.29.27+taskiq")
    (tmp_path / "dagster_taskiq").symlink_to(ROOT / "dagster_taskiq")
    (tmp_path / "dagster_celery").mkdir()
    done = imported("import dagster_taskiq", tmp_path, path=(tmp_path,))
    assert done.returncode == 0, done.stderr
    missing = f"UserWarning: Files of dagster-taskiq are missing in {tmp_path / 'dagster_celery'}:"
    assert done.stderr.count(missing) == 1, done.stderr
    assert MENDED_BY[1] in done.stderr
    assert "uninstall" not in done.stderr


def test_a_directory_of_the_same_name_elsewhere_does_not_warn(tmp_path: Path) -> None:
    (tmp_path / "dagster_taskiq").symlink_to(ROOT / "dagster_taskiq")
    (tmp_path / "other" / "dagster_celery").mkdir(parents=True)
    done = imported("import dagster_taskiq", tmp_path, path=(tmp_path, tmp_path / "other"))
    assert (done.returncode, done.stderr) == (0, "")
