"""Warnings that the published dagster-celery is, or was, installed beside this project.

Both have files of the package ``dagster_celery``. Which of them are there depends on who was
installed last, and uninstalling one takes files of the other away.
"""

from importlib.metadata import PackageNotFoundError, version
from warnings import warn

from dagster_taskiq.distribution.releases import ORIGINAL, SIBLINGS, is_stand_in


def warn_of_leftover(stacklevel: int) -> None:
    """Warn if the published dagster-celery is installed beside this project.

    Args:
        stacklevel: of the line to name, as for ``warnings.warn``, from the caller of this function
            on.

    Raises:
        UserWarning: the user has turned such warnings into errors.
    """
    found = _published()
    if found is not None:
        text = (
            f"{ORIGINAL} {found} is installed together with dagster-taskiq. Both bring the package "
            "dagster_celery, so that some of its files are of one and some of the other. Run all "
            f"lines, in this order; after the first alone the package is gone:\n{_remedy(found)}"
        )
        warn(text, UserWarning, stacklevel=stacklevel + 1)


def warn_of_other_files(what: str, stacklevel: int) -> None:
    """Warn that files of the package ``dagster_celery`` are not those of this project.

    Args:
        what: which, as the first half of a sentence.
        stacklevel: as for :func:`warn_of_leftover`.

    Raises:
        UserWarning: the user has turned such warnings into errors.
    """
    text = (
        f"{what}: {ORIGINAL} was installed or removed after dagster-taskiq. Run, in this order:\n"
        f"{_remedy(_published())}"
    )
    warn(text, UserWarning, stacklevel=stacklevel + 1)


def _published() -> str | None:
    """Return the version of the published dagster-celery; ``None`` if it is not installed."""
    found = _installed(ORIGINAL)
    return None if found is None or is_stand_in(found) else found


def _remedy(published: str | None) -> str:
    """Return the commands that repair it, a line each."""
    lines = ["pip install --force-reinstall --no-deps dagster-taskiq"]
    if published is not None:
        lines.insert(0, f"pip uninstall -y {ORIGINAL}")
        if any(_installed(name) is not None for name in SIBLINGS):
            # They require it, and bring it back, unless something stands in for it.
            lines += [
                f"dagster-taskiq stand-in --version {published} -o wheels",
                f"pip install --no-index --find-links wheels {ORIGINAL}=={published}",
            ]
    return "\n".join(f"    {line}" for line in lines)


def _installed(name: str) -> str | None:
    """Return the version of a distribution; ``None`` if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
