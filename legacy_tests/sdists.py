"""The source distributions of dagster-celery: fetched by their hashes, and kept."""

import hashlib
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path, PurePosixPath

#: Where they are kept: with the virtual environment, so that they go when it is made anew.
KEPT = Path(sys.prefix) / "share" / "dagster-celery-sdists"


@dataclass(frozen=True)
class Sdist:
    """One release of dagster-celery, or of a library on it, as PyPI has its sources."""

    version: str
    sha256: str
    #: How many tests we run of it.
    tests: int = 0
    #: Its name on PyPI.
    project: str = "dagster-celery"

    @property
    def stem(self) -> str:
        """The name of the directory in it."""
        return f"{self.project.replace('-', '_')}-{self.version}"

    @property
    def filename(self) -> str:
        """The name of the file, on PyPI and where it is kept."""
        return f"{self.stem}.tar.gz"


#: The oldest and the newest release of 0.29 there was when these tests were written.
OLDEST = Sdist(
    version="0.29.0",
    sha256="f7f36fcb445321c3d1af150fd36b310870953ecb72f55306b520f4f9a41b596d",
    tests=39,
)
NEWEST = Sdist(
    version="0.29.27",
    sha256="f80e250b6cc961383ebc39f2a20a4d5e78702f95914bbd7a8c6c1ef92ccca75a",
    tests=39,
)

#: Libraries that have an executor, an app and tasks of their own on dagster-celery.
KUBERNETES = Sdist(
    version=NEWEST.version,
    sha256="d0769c7b0ba5001db06fa978eabf0f1226f8664c04d1f34838f636f6512dce12",
    tests=12,
    project="dagster-celery-k8s",
)
OLDEST_KUBERNETES = Sdist(
    version=OLDEST.version,
    sha256="9eabfcb5736e0bcddf7bbec0565dfb867b499d010bb19ab8cba3b1a727b14011",
    tests=12,
    project="dagster-celery-k8s",
)
DOCKER = Sdist(
    version=NEWEST.version,
    sha256="8aba77bca31cbd4393b27b45a597c9ed7f8a8f6a9e7784f1218e4f4f8b8cd87a",
    tests=4,
    project="dagster-celery-docker",
)
OLDEST_DOCKER = Sdist(
    version=OLDEST.version,
    sha256="5b5f05bfbb5e132cdf72b2e54946c064c97daa5266540fcd9b7125b48792574b",
    tests=4,
    project="dagster-celery-docker",
)


def library_here(project: str) -> Sdist:
    """Return the release of a library that came out with the Dagster that is installed.

    Of a Dagster between the oldest and the newest it is the newest library there is here.

    Args:
        project: its name on PyPI.
    """
    oldest = version("dagster") == f"1.13.{OLDEST.version.rpartition('.')[2]}"
    found = (OLDEST_KUBERNETES, OLDEST_DOCKER) if oldest else (KUBERNETES, DOCKER)
    return next(each for each in found if each.project == project)


def fetch(sdist: Sdist, kept: Path = KEPT) -> Path:
    """Return the path of a source distribution, which is downloaded where it is not there yet.

    Args:
        sdist: which one.
        kept: the directory to look in, and to leave it in.

    Raises:
        RuntimeError: It can not be had, or what is there is not what the hash says.
    """
    path = kept / sdist.filename
    if not path.exists():
        kept.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept) as directory:
            # Others who fetch it at this moment replace it with the same bytes.
            _download(sdist, Path(directory)).replace(path)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sdist.sha256:
        raise RuntimeError(
            f"{path} is not the {sdist.filename} that these tests are about: its SHA-256 is "
            f"{found}, not {sdist.sha256}. Delete it, and it is fetched again."
        )
    return path


def _download(sdist: Sdist, directory: Path) -> Path:
    """Have pip do it, which knows the user's index, certificates, proxy and passwords."""
    wanted = directory / "wanted.txt"
    wanted.write_text(f"{sdist.project}=={sdist.version} --hash=sha256:{sdist.sha256}\n")
    # Nothing is built or installed; pip only asks the sources for their metadata.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", f"--no-binary={sdist.project}", "--require-hashes"]
    command += [f"--requirement={wanted}", f"--dest={directory}"]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(
            f"pip did not get {sdist.filename}, which these tests need once:\n{done.stdout}\n"
            f"Where there is no network, put the file at {directory.parent / sdist.filename}."
        )
    return directory / sdist.filename


def unpack(sdist: Sdist, package: str, directory: Path) -> Path:
    """Write one package of a source distribution into a directory, and nothing else of it.

    Args:
        sdist: which one; it is fetched where it is not there yet.
        package: such as ``dagster_celery`` or ``dagster_celery_tests``.
        directory: where the package's own directory is made.

    Returns:
        The package's own directory.

    Raises:
        RuntimeError: The source distribution can not be had.
    """
    inside = PurePosixPath(sdist.stem)
    with tarfile.open(fetch(sdist)) as archive:
        for member in archive:
            name = PurePosixPath(member.name)
            if member.isfile() and name.is_relative_to(inside / package):
                target = directory / name.relative_to(inside)
                target.parent.mkdir(parents=True, exist_ok=True)
                content = archive.extractfile(member)
                assert content is not None
                target.write_bytes(content.read())
    return directory / package
