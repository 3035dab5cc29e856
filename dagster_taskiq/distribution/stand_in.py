"""A wheel that stands in for a release of dagster-celery, and requires this project instead.

dagster-celery-k8s and dagster-celery-docker require ``dagster-celery==RELEASE``. An installer that
has no such distribution fetches the published one, and overwrites the files of this project's
``dagster_celery`` with those of Celery's. The wheel has no files for ``dagster_celery``, but it
satisfies the requirement.
"""

import base64
import hashlib
import io
import re
import zipfile
from pathlib import Path

from dagster_taskiq.distribution.releases import LABEL, ORIGINAL
from dagster_taskiq.errors import ConfigError

#: What a release may look like (PEP 440, without epoch, local label and development releases).
_RELEASE = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){1,3}((a|b|rc)\d+)?(\.post\d+)?")

#: The extras of dagster-celery. A requirement may name them; this project has each of them too.
_EXTRAS = ("flower", "kubernetes", "redis")

#: The first day that the format of wheels can express: the same bytes on each day.
_TIME = (1980, 1, 1, 0, 0, 0)
#: A file that all may read and its owner may write, as Unix has it in the upper half.
_MODE = 0o100644 << 16


def file_name(release: str) -> str:
    """Return the name of the wheel that stands in for a release.

    Raises:
        ConfigError: that is no release.
    """
    return f"{_stem(release)}-py3-none-any.whl"


def write_stand_in(release: str, directory: Path) -> Path:
    """Write the wheel that stands in for a release of dagster-celery.

    Its bytes depend on the release alone, so that its hash can be written down.

    Args:
        release: such as ``0.29.27``.
        directory: where to; made if it is not there.

    Returns:
        The path of the wheel. One that was there is replaced.

    Raises:
        ConfigError: that is no release, or the file cannot be written.
    """
    path = directory / file_name(release)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_wheel(release))
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written ({error.strerror}). Name another directory with -o."
        ) from error
    return path


def _stem(release: str) -> str:
    if not _RELEASE.fullmatch(release):
        raise ConfigError(
            f'"{release}" is no release of {ORIGINAL}. Give one as PyPI has it, such as 0.29.27.'
        )
    return f"{ORIGINAL.replace('-', '_')}-{release}+{LABEL}"


def _wheel(release: str) -> bytes:
    """Return the bytes of the wheel: metadata, and a record of them."""
    place = f"{_stem(release)}.dist-info"
    files = {
        f"{place}/METADATA": _metadata(release),
        f"{place}/WHEEL": (
            "Wheel-Version: 1.0\nGenerator: dagster-taskiq\n"
            "Root-Is-Purelib: true\nTag: py3-none-any\n"
        ),
    }
    record = f"{place}/RECORD"
    files[record] = "".join(f"{name},{_digest(text)}\n" for name, text in files.items()) + (
        f"{record},,\n"
    )
    buffer = io.BytesIO()
    # Stored as it is: how well it is compressed would depend on the release of zlib.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, text in files.items():
            entry = zipfile.ZipInfo(name, date_time=_TIME)
            entry.create_system = 3  # Unix, on each system
            entry.external_attr = _MODE
            archive.writestr(entry, text)
    return buffer.getvalue()


def _digest(text: str) -> str:
    """Return hash and size of a file, as a line of RECORD has them."""
    content = text.encode()
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"sha256={digest},{len(content)}"


def _metadata(release: str) -> str:
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {ORIGINAL}",
        f"Version: {release}+{LABEL}",
        f"Summary: Stands in for {ORIGINAL} {release}: dagster-taskiq has the package.",
        "License: Apache-2.0",
        "Project-URL: Homepage, https://github.com/dagster-taskiq/dagster-taskiq",
        "Requires-Python: >=3.10",
        "Requires-Dist: dagster-taskiq",
    ]
    for extra in _EXTRAS:
        lines.append(f"Provides-Extra: {extra}")
        lines.append(f'Requires-Dist: dagster-taskiq[{extra}]; extra == "{extra}"')
    lines += [
        "",
        f"It has no modules. It satisfies requirements such as `{ORIGINAL}=={release}`, with",
        "`dagster-taskiq`, which has the package `dagster_celery`.",
        "",
    ]
    return "\n".join(lines)
