"""Python environments for the tests of the libraries on dagster-celery: ours, and the original's.

Both have the releases that a library pins, and differ only in whose ``dagster_celery`` it is. Where
it is the original, on Celery, the same tests are the control.
"""

import fcntl
import hashlib
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tomli

from compat_tests.checkout import ROOT

#: Where they are kept: with the virtual environment, so that they go when it is made anew.
KEPT = Path(sys.prefix) / "share" / "dagster-celery-libraries"
UV = Path(sys.executable).with_name("uv")

#: What the tests import, besides the library and Dagster. One of them imports Celery itself.
_COMMON = (
    "celery==5.7.0",
    "docker",
    "kubernetes",
    "psutil",
    "psycopg2-binary",
    "pytest>=8",
    "pytest-timeout>=2.3",
    # Later ones take another driver for PostgreSQL than dagster-postgres brings.
    "sqlalchemy<2.1",
)


@dataclass(frozen=True)
class Environment:
    """What libraries of one release run in."""

    #: That of dagster-celery and its libraries.
    release: str
    #: Whether ``dagster_celery`` is the original.
    is_original: bool

    @property
    def dagster(self) -> str:
        """The release of Dagster that came out with it."""
        return f"1.13.{self.release.removeprefix('0.29.')}"

    @property
    def requirements(self) -> list[str]:
        """What is installed."""
        pinned = [f"{name}=={self.dagster}" for name in ("dagster", "dagster-graphql")]
        pinned += [f"{name}=={self.release}" for name in ("dagster-k8s", "dagster-postgres")]
        if self.is_original:
            return [*pinned, f"dagster-celery=={self.release}", *_COMMON]
        # What this project requires; its package is on the import path of the tests.
        project = tomli.loads((ROOT / "pyproject.toml").read_text())["project"]
        return [*pinned, *project["dependencies"], *_COMMON]

    def python(self) -> str:
        """Return the path of its interpreter; it is made where it is not there yet.

        Raises:
            RuntimeError: a package can not be had.
        """
        name = hashlib.sha256("\n".join(self.requirements).encode()).hexdigest()[:16]
        directory = KEPT / name
        python = directory / "bin" / "python"
        KEPT.mkdir(parents=True, exist_ok=True)
        with (KEPT / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (directory / "complete").exists():
                _make(directory, python, self.requirements)
                (directory / "complete").touch()
        return str(python)


def _make(directory: Path, python: Path, requirements: Sequence[str]) -> None:
    environment = ("venv", "--clear", "--no-project", "--python", sys.executable, str(directory))
    _run(str(UV), "--quiet", *environment)
    try:
        _run(str(UV), "--quiet", "pip", "install", "--python", str(python), *requirements)
    except RuntimeError:
        # It does not read pip's configuration, which may be what makes packages reachable.
        pip = (sys.executable, "-m", "pip", "--python", str(python), "--quiet")
        _run(*pip, "--disable-pip-version-check", "install", *requirements)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
