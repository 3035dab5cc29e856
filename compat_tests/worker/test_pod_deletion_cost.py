"""A worker tells Kubernetes what it costs to delete its pod."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from compat_tests.pods_api import PodsApi, serving_pods
from compat_tests.waiting import eventually
from compat_tests.workers import WorkerProcess
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.worker import pod_deletion_cost
from dagster_taskiq.worker.pod_deletion_cost import PodDeletionCost


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PodsApi]:
    monkeypatch.setattr(pod_deletion_cost, "CHANGE_SECONDS", 0.05)
    monkeypatch.setattr(pod_deletion_cost, "LOOK_SECONDS", 0.05)
    monkeypatch.setenv("POD_NAME", "pod-1")
    with serving_pods(tmp_path / "account") as api:
        for name, value in api.environment.items():
            monkeypatch.setenv(name, value)
        yield api


async def until(costs: list[str], api: PodsApi) -> None:
    """Wait until the costs of the pod were these, in order."""
    await asyncio.to_thread(eventually, lambda: api.costs("pod-1") == costs)


def test_a_pod_costs_more_while_its_worker_is_busy(api: PodsApi) -> None:
    busy = False

    async def work() -> None:
        nonlocal busy
        keeping = asyncio.create_task(PodDeletionCost(lambda: busy, api.account).run())
        await until(["0"], api)
        busy = True
        await until(["0", "100"], api)
        # Kubernetes renews it.
        api.renew_token()
        busy = False
        await until(["0", "100", "0"], api)
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping

    asyncio.run(work())


def test_what_the_role_does_not_allow_is_logged_once_and_tried_again(
    api: PodsApi, caplog: pytest.LogCaptureFixture
) -> None:
    api.allows_patch = False

    async def work() -> None:
        keeping = asyncio.create_task(PodDeletionCost(lambda: True, api.account).run())
        await asyncio.to_thread(eventually, lambda: api.refused > 2)
        api.allows_patch = True
        await until(["100"], api)
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping

    with caplog.at_level(logging.WARNING):
        asyncio.run(work())
    (warning,) = caplog.messages
    assert "403 Forbidden" in warning
    assert "get and patch pods" in warning


@pytest.mark.parametrize("broker_kind", ["embedded"], indirect=True)
def test_outside_of_a_pod_the_option_is_refused(settings: Settings, tmp_path: Path) -> None:
    worker = WorkerProcess(settings, tmp_path, "w1", "--pod-deletion-cost")
    assert worker.wait() == 2
    assert "Error: --pod-deletion-cost is for a pod of Kubernetes" in worker.output()
