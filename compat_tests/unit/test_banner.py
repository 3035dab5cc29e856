"""What a worker logs as it starts, as lines and as fields; and of others with its name."""

import logging
import os
from dataclasses import replace

import dagster
import pytest

from compat_tests.unit.doubles import make_worker
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.memory.backend import MemoryBackend
from dagster_taskiq.transport.memory.server import MemoryServer
from dagster_taskiq.version import __version__
from dagster_taskiq.wire.records import Worker
from dagster_taskiq.worker.banner import log_banner
from dagster_taskiq.worker.namesakes import warn_of_namesake
from dagster_taskiq.worker.options import LogFormat, PoolOptions, WorkerOptions

SETTINGS = Settings(broker="redis://:secret@host/0", backend="postgresql://u:secret@db/x")


def options(log_format: LogFormat) -> WorkerOptions:
    pool = PoolOptions(concurrency=4, max_runs=10, log_format=log_format)
    return WorkerOptions("w1", ("a", "b"), pool, "cgroup quota")


@pytest.fixture(autouse=True)
def all_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def test_the_banner_is_lines_that_are_read_in_one_glance(caplog: pytest.LogCaptureFixture) -> None:
    log_banner(SETTINGS, options(LogFormat.TEXT))
    (shown,) = caplog.messages
    lines = shown.splitlines()
    assert lines[0] == "Worker w1 starts."
    assert "secret" not in shown
    assert "    backend  postgresql://u:***@db/x" in lines
    assert "    slots    4 (cgroup quota); holds up to 10 runs" in lines
    assert max(map(len, lines)) < 80


def test_in_json_the_banner_is_one_sentence_with_fields(caplog: pytest.LogCaptureFixture) -> None:
    log_banner(SETTINGS, options(LogFormat.JSON))
    (record,) = caplog.records
    assert record.getMessage() == "Worker w1 starts."
    fields = vars(record)
    assert "secret" not in str(fields)
    assert (fields["queues"], fields["slots"], fields["max_runs"]) == (["a", "b"], 4, 10)
    assert fields["slots_source"] == "cgroup quota"
    assert (fields["dagster_taskiq"], fields["dagster"]) == (__version__, dagster.__version__)


ME = replace(make_worker("w1"), id="me", pid=os.getpid())
OTHER = replace(ME, id="other", pid=os.getppid())
NO_PROCESS = 2**22 + 1


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("other", "is_told"),
    [
        (OTHER, True),
        (replace(OTHER, host="elsewhere", pid=NO_PROCESS), True),
        (ME, False),
        (replace(OTHER, name="w2"), False),
        # As the first process of a container that was started again.
        (replace(OTHER, pid=ME.pid), False),
        # One that was killed.
        (replace(OTHER, pid=NO_PROCESS), False),
        (replace(OTHER, lease=0.0), False),
    ],
    ids=["there", "on another host", "itself", "another name", "same process", "killed", "lost"],
)
async def test_a_worker_warns_of_another_one_with_its_name(
    other: Worker, is_told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    backend = MemoryBackend(Settings(broker="memory://"), MemoryServer())
    await backend.startup()
    for each in (ME, other):
        await backend.beat(each)
    await warn_of_namesake(backend, ME)
    assert len(caplog.messages) == is_told
    assert all(each.startswith("Another worker is named w1 as well") for each in caplog.messages)
