"""A plugin for the pytest that runs the tests of dagster-celery-docker: they have a Docker engine.

What stands in for it runs the command of a container as a process of this machine, with the
interpreter of the tests.
"""

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from compat_tests.facade.docker_engine import running_engine

_engine = ExitStack()


def pytest_sessionstart() -> None:
    """Start the engine, and have the tests and all they start find it."""
    directory = Path(_engine.enter_context(tempfile.TemporaryDirectory()))
    _, address = _engine.enter_context(running_engine(directory, dict(os.environ)))
    os.environ["DOCKER_HOST"] = address


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    """End it."""
    _engine.close()
