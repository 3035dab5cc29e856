"""Whose the package ``dagster_celery`` on the path is: this project's, or that of dagster-celery.

If files of dagster-celery have replaced this project's, its package cannot warn: all works, on
Celery as before. So ``dagster_taskiq`` looks, without importing the package.
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

_PACKAGE = "dagster_celery"
#: What the first file of this project's package has in it, and that of dagster-celery has not.
_MARK = b"dagster_taskiq"


def warn_if_not_ours(stacklevel: int) -> None:
    """Warn if ``import dagster_celery`` does not give this project's package.

    It costs a look for the package, and reading its first file. Where there is no package of the
    name, or it cannot be read as a file, nothing is said.

    Args:
        stacklevel: of the line to name, as for ``warnings.warn``, from the caller of this function
            on.

    Raises:
        UserWarning: the user has turned such warnings into errors.
    """
    file = _first_file()
    if file is None:
        return
    try:
        if _MARK in file.read_bytes():
            return
        what = f"{file.parent} is not the package of dagster-taskiq, but of Celery's dagster-celery"
    except FileNotFoundError:
        what = f"Files of dagster-taskiq are missing in {file.parent}"
    except OSError:
        return
    # Imported only here: it imports what takes longer than all of the above.
    leftover = import_module("dagster_taskiq.distribution.leftover")
    leftover.warn_of_other_files(what, stacklevel=stacklevel + 1)


def _first_file() -> Path | None:
    """Return the path of the package's ``__init__.py``, which need not be there."""
    loaded = sys.modules.get(_PACKAGE)
    spec = find_spec(_PACKAGE) if loaded is None else loaded.__spec__
    if spec is None:
        return None
    if spec.has_location and spec.origin is not None:
        return Path(spec.origin)
    # A directory without that file. It is this project's if it is beside the package of the engine.
    ours = Path(__file__).parents[2] / _PACKAGE
    places = [Path(each).resolve() for each in spec.submodule_search_locations or ()]
    return ours / "__init__.py" if ours.resolve() in places else None
