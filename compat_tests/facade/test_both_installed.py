"""If dagster-celery is still installed with this project, an import warns, with what to do.

Both bring files of the same names: which of them are there depends on who was installed last, and
uninstalling either takes files of the other away.
"""

import os
import subprocess
import sys
from pathlib import Path

from compat_tests.checkout import ROOT

#: The two lines that repair it, in this order.
MENDED_BY = (
    "pip uninstall -y dagster-celery",
    "pip install --force-reinstall --no-deps dagster-taskiq",
)


def imported(code: str, site: Path) -> "subprocess.CompletedProcess[str]":
    """Run code in a process to which distributions in the directory ``site`` are installed."""
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("PYTHON")},
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, site))),
    }
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=site,
        capture_output=True,
        text=True,
        check=False,
    )


def install(name: str, site: Path) -> None:
    """Leave what an installer leaves of a distribution, without its modules."""
    directory = site / f"{name.replace('-', '_')}-0.29.27.dist-info"
    directory.mkdir()
    metadata = (
        f"Metadata-Version: 2.4\nName: {name}\nVersion: 0.29.27\nRequires-Dist: celery>=4.3\n"
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


def test_importing_the_newer_name_does_not_warn(tmp_path: Path) -> None:
    install("dagster-celery", tmp_path)
    done = imported("import dagster_taskiq", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
