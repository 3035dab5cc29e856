"""Environments that pip, uv and Poetry install into, and small wheels for them."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compat_tests.checkout import ROOT

UV = str(Path(sys.executable).with_name("uv"))

#: What an installer has in its environment: nothing of what the tests set for other programs.
_ENVIRONMENT = {
    **{
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "DAGSTER", "VIRTUAL_ENV", "POETRY_", "UV_PROJECT"))
    },
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "POETRY_VIRTUALENVS_IN_PROJECT": "true",
    # Where it finds none, it asks the desktop for a key ring, and waits.
    "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
}

Done = subprocess.CompletedProcess[str]

#: Prints what is installed, by name, in the import path of an interpreter.
_LIST = """
from importlib.metadata import distributions
for each in distributions():
    print(each.metadata["Name"].lower().replace("_", "-"), each.version)
"""


def run(*command: str, directory: Path | None = None, check: bool = True) -> Done:
    """Run a command to its end.

    Args:
        command: what to run.
        directory: where to; else where the tests are.
        check: whether it has to succeed.
    """
    done = subprocess.run(
        command,
        cwd=directory,
        env=_ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    if check and done.returncode:
        raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done


@dataclass(frozen=True)
class Place:
    """A virtual environment without pip."""

    directory: Path

    @property
    def python(self) -> str:
        """The path of its interpreter."""
        return str(self.directory / "bin" / "python")

    def pip(self, *arguments: str, directory: Path | None = None, check: bool = True) -> Done:
        """Run pip on it: the one beside the tests."""
        command = (sys.executable, "-m", "pip", "--python", self.python, *arguments)
        return run(*command, directory=directory, check=check)

    def uv(self, *arguments: str, directory: Path | None = None, check: bool = True) -> Done:
        """Run ``uv pip COMMAND`` on it."""
        command, *rest = arguments
        full = (UV, "pip", command, "--python", self.python, *rest)
        return run(*full, directory=directory, check=check)

    def run(self, code: str, check: bool = True) -> Done:
        """Run Python code in it."""
        return run(self.python, "-c", code, directory=self.directory, check=check)

    def installed(self) -> dict[str, str]:
        """Return the version of each distribution in it, by name."""
        return dict(line.split(" ", 1) for line in self.run(_LIST).stdout.splitlines())


def new_place(directory: Path, also: Path | None = None) -> Place:
    """Make a virtual environment.

    Args:
        directory: where.
        also: a directory with packages that count as installed in it.
    """
    run(UV, "venv", "--quiet", "--no-project", "--python", sys.executable, str(directory))
    if also is not None:
        (site,) = directory.glob("lib/python*/site-packages")
        (site / "also.pth").write_text(f"{also}\n")
    return Place(directory)


def wheel(
    directory: Path,
    name: str,
    version: str,
    requires: Sequence[str] = (),
    files: Mapping[str, str] | None = None,
) -> Path:
    """Write a small wheel, and return its path.

    Args:
        directory: where; made if it is not there.
        name: that of the distribution.
        version: its version.
        requires: its requirements.
        files: texts by their paths in it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    needs = "".join(f"Requires-Dist: {each}\n" for each in requires)
    contents = {
        **(files or {}),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    contents[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in (*contents, f"{info}/RECORD"))
    path = directory / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in contents.items():
            archive.writestr(inside, text)
    return path


def make_dist(directory: Path) -> None:
    """Build what is published: ``make dist``."""
    run("make", "--silent", "dist", f"DIST={directory}", directory=ROOT)
