"""A plugin for the pytest that runs dagster-celery's tests. It looks on, and changes nothing.

What it has seen is written as JSON to the file that ``SEEN`` in the environment names.
"""

import json
import os
import sys
import time
from pathlib import Path

import pytest

#: Packages of which is written down where their modules come from.
LOOKED_AT = ("celery", "dagster_celery", "kombu")

_began = time.monotonic()
_collected: list[str] = []
_outcomes: dict[str, str] = {}


def pytest_collection_finish(session: pytest.Session) -> None:
    """Note which tests there are."""
    _collected.extend(item.nodeid for item in session.items)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note how each test ends; what goes wrong before or after it counts as its own end."""
    if report.when == "call" or not report.passed:
        _outcomes[report.nodeid] = report.outcome


def pytest_sessionfinish() -> None:
    """Write it all down."""
    modules = {
        name: str(getattr(module, "__file__", None))
        for name, module in sorted(sys.modules.items())
        if name.partition(".")[0] in LOOKED_AT
    }
    seen = {
        "collected": _collected,
        "outcomes": _outcomes,
        "seconds": time.monotonic() - _began,
        "modules": modules,
    }
    Path(os.environ["SEEN"]).write_text(json.dumps(seen, indent=1))
