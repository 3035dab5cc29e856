"""The first process of a worker, as it begins."""

import asyncio
import sys
from unittest.mock import Mock

import pytest

from dagster_taskiq.worker import runner


def test_without_uvloop_a_worker_uses_pythons_own_event_loop(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loops: list[object] = []

    class Runner:
        def __init__(self, *args: object) -> None:
            pass

        async def run(self) -> int:
            loops.append(asyncio.get_running_loop())
            return 0

    monkeypatch.setitem(sys.modules, "uvloop", None)
    monkeypatch.setattr(runner, "_Runner", Runner)
    assert runner.run_worker(Mock(), Mock()) == 0
    assert isinstance(loops[0], asyncio.SelectorEventLoop)
    assert "Using Python's own event loop" in caplog.text
