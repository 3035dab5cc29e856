"""What ``opentelemetry-instrument`` has configured in a worker's parent, for its children.

That command has every new interpreter configure OpenTelemetry as it starts. Here it is not to do so
in the process from which the children are forked: exporters have threads, and that process has one.
So it is kept from there, and each child does it by itself.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

#: The end of the path of the module by which an interpreter does that.
_MODULE = ("opentelemetry", "instrumentation", "auto_instrumentation", "sitecustomize.py")
#: The environment variable in which it finds that module.
_PATH_ENV = "PYTHONPATH"


def path_of_parent() -> str | None:
    """Return ``PYTHONPATH`` if ``opentelemetry-instrument`` has started this process."""
    return os.environ.get(_PATH_ENV, "") if _directory() else None


def environment_of_others() -> Mapping[str, str]:
    """Return this process's environment, so that new interpreters do not do that."""
    directory = _directory()
    if not directory:
        return os.environ
    path = os.environ.get(_PATH_ENV, "").split(os.pathsep)
    kept = os.pathsep.join(each for each in path if each != directory)
    return {**os.environ, _PATH_ENV: kept}


def instrument(path: str) -> None:
    """Do in this process what ``opentelemetry-instrument`` has done in the parent.

    Args:
        path: that of :func:`path_of_parent` there, for programs that tasks start.
    """
    from opentelemetry.instrumentation.auto_instrumentation import (  # noqa: PLC0415
        initialize,
    )

    os.environ[_PATH_ENV] = path
    initialize()


def _directory() -> str:
    file = getattr(sys.modules.get("sitecustomize"), "__file__", None)
    if not file or Path(file).parts[-len(_MODULE) :] != _MODULE:
        return ""
    return str(Path(file).parent)
