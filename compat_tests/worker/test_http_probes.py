"""The HTTP probes of a worker, for Kubernetes."""

import socket
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from compat_tests.conftest import StartWorker
from compat_tests.sending import USER_TASKS, open_sender
from compat_tests.servers import RedisServer, free_port, own_redis
from compat_tests.waiting import eventually
from compat_tests.workers import WorkerProcess, running_worker
from dagster_taskiq.settings.settings import Settings

Answer = tuple[int, str]


def asks(port: int) -> Callable[[str], Answer]:
    def ask(path: str) -> Answer:
        try:
            with urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
                return answer.status, answer.read().decode().strip()
        except HTTPError as error:
            return error.code, error.read().decode().strip()

    return ask


def test_a_worker_is_ready_until_it_drains_and_lives_until_it_ends(
    start_worker: StartWorker, settings: Settings, tmp_path: Path
) -> None:
    port = free_port()
    ask = asks(port)
    worker = start_worker("-i", USER_TASKS, "-c", "1", "--http-port", str(port))
    assert ask("/livez") == ask("/readyz") == (HTTPStatus.OK, "idle")
    with open_sender(settings) as sender:
        sender.send("hold", str(tmp_path / "started"), str(tmp_path / "go"))
        eventually((tmp_path / "started").exists)
        assert ask("/livez") == ask("/readyz") == (HTTPStatus.OK, "busy")
        worker.process.terminate()
        eventually(lambda: ask("/readyz") == (HTTPStatus.SERVICE_UNAVAILABLE, "draining"))
        assert ask("/livez") == (HTTPStatus.OK, "draining")
        (tmp_path / "go").touch()
        assert worker.wait() == 0


@pytest.mark.parametrize("broker_kind", ["embedded"], indirect=True)
def test_a_worker_serves_what_it_has_run_and_holds_as_metrics(
    start_worker: StartWorker, settings: Settings, tmp_path: Path
) -> None:
    port = free_port()
    worker = start_worker("-i", USER_TASKS, "-c", "2", "--http-port", str(port))

    def metrics() -> dict[str, list[Sample]]:
        _, text = asks(port)("/metrics")
        return {each.name: each.samples for each in text_string_to_metric_families(text)}

    assert metrics()["dagster_taskiq_tasks_started"] == []
    with open_sender(settings) as sender:
        assert sender.value(sender.send("add", 1, 2)) == 3
        sender.error(sender.send("fail", "no"))
        sender.send("hold", str(tmp_path / "started"), str(tmp_path / "go"))
        eventually((tmp_path / "started").exists)
        found = metrics()
        (tmp_path / "go").touch()

    def by_task(family: str, name: str = "") -> dict[str, float]:
        samples = [each for each in found[family] if each.name.endswith(name)]
        assert {(each.labels["queue"], each.labels["dagster_job"]) for each in samples} == {
            (settings.queue, "")
        }
        return {
            each.labels["task"].rpartition(":")[2]: each.value
            for each in samples
            if each.labels.get("le", "+Inf") == "+Inf"
        }

    all_once = {"add": 1, "fail": 1, "hold": 1}
    assert by_task("dagster_taskiq_tasks_started") == all_once
    assert by_task("dagster_taskiq_tasks_succeeded") == {"add": 1, "fail": 0, "hold": 0}
    assert by_task("dagster_taskiq_tasks_failed") == {"add": 0, "fail": 1, "hold": 0}
    assert by_task("dagster_taskiq_task_wait_seconds", "_bucket") == all_once
    assert by_task("dagster_taskiq_task_run_seconds", "_count") == {"add": 1, "fail": 1, "hold": 0}
    of_worker = {name: samples for name, samples in found.items() if "_worker_" in name}
    assert {(each.labels["worker"]) for all_ in of_worker.values() for each in all_} == {
        worker.name
    }
    values = {name.rpartition("worker_")[2]: each.value for name, (each,) in of_worker.items()}
    assert values.pop("memory_bytes") > 0
    assert values == {"up": 1, "slots": 2, "busy": 1}


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with own_redis() as server:
        yield server


def test_a_worker_whose_broker_is_away_lives_and_is_not_ready(
    server: RedisServer, tmp_path: Path
) -> None:
    port = free_port()
    ask = asks(port)
    with running_worker(Settings(broker=server.url), tmp_path, "--http-port", str(port)):
        eventually(lambda: ask("/readyz") == (HTTPStatus.OK, "idle"))
        for away, back in ((server.freeze, server.thaw), (server.kill, server.start)):
            away()
            away_answer = (HTTPStatus.SERVICE_UNAVAILABLE, "the broker or backend does not answer")
            eventually(lambda answer=away_answer: ask("/readyz") == answer)
            assert ask("/livez") == (HTTPStatus.OK, "idle")
            assert ask("/metrics")[0] == HTTPStatus.OK
            back()
            eventually(lambda: ask("/readyz") == (HTTPStatus.OK, "idle"))


def test_a_worker_that_starts_without_its_broker_lives_and_is_not_ready(
    server: RedisServer, tmp_path: Path
) -> None:
    server.kill()
    port = free_port()
    ask = asks(port)
    worker = WorkerProcess(Settings(broker=server.url), tmp_path, "w1", "--http-port", str(port))
    try:

        def answers() -> Answer | None:
            assert worker.process.poll() is None, worker.output()
            try:
                return ask("/livez")
            except OSError:
                return None

        assert eventually(answers) == (HTTPStatus.OK, "starting")
        assert ask("/readyz") == (HTTPStatus.SERVICE_UNAVAILABLE, "starting")
    finally:
        worker.end()


@pytest.mark.parametrize("broker_kind", ["embedded"], indirect=True)
def test_a_port_that_is_taken_is_said_in_a_sentence(settings: Settings, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        worker = WorkerProcess(settings, tmp_path, "w1", "--http-port", port)
        assert worker.wait() == 2
    assert f"Error: Cannot listen on port {port}, which --http-port names" in worker.output()
