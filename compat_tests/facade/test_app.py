"""The app object: tasks as a project defines them, sent by one process and done by another."""

import os
import socket
import time
import uuid
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from compat_tests.facade.conftest import SLOTS, WORKER, OldFleet
from compat_tests.waiting import eventually
from dagster_celery._celery_app.routing import Queue
from dagster_celery.make_app import make_app, make_app_with_task_routes
from dagster_taskiq.errors import ConfigError, TaskRevokedError

#: The worker's name, as Celery makes it of the one it was given.
HOSTNAME = f"{WORKER}@{socket.gethostname()}"
FAIL = "compat_tests.facade.old_project.fail"
GO_ON = "compat_tests.facade.old_project.go_on_after"


def test_a_bound_task_is_done_by_a_worker(old_fleet: OldFleet) -> None:
    result = old_fleet.app().send_task("describe", (1,), {"second": 2}, queue="side", priority=3)

    answer = result.get(timeout=60)

    assert answer.pop("pid") != os.getpid()
    assert answer == {
        "sum": 3,
        "id": result.id,
        "hostname": HOSTNAME,
        "args": [1],
        "kwargs": {"second": 2},
        "queue": "side",
        "priority": 3,
    }
    assert (result.state, result.status, result.task_id) == ("SUCCESS", "SUCCESS", result.id)
    assert result.successful() and result.ready() and not result.failed()
    assert result.worker == HOSTNAME
    assert result.traceback is None


def test_arguments_and_results_keep_the_types_that_celery_keeps(old_fleet: OldFleet) -> None:
    when = datetime(2030, 1, 1, 12, tzinfo=timezone.utc)
    values = [
        when,
        when.date(),
        when.time(),
        Decimal("1.10"),
        uuid.UUID(int=5),
        b"a",
        b"\xff",
        "2030",
    ]
    named = {"deep": [{"when": when}, 1], "looks_like": {"__type__": "no.such", "__value__": 1}}

    result = old_fleet.app().send_task("same", values, named)

    kinds = ["datetime", "date", "time", "Decimal", "UUID", "bytes", "bytes", "str"]
    assert result.get(timeout=60) == [values, named, kinds]


def test_a_signature_keeps_its_arguments(old_fleet: OldFleet) -> None:
    app = old_fleet.app()

    @app.task(bind=True, name="describe", queue="more", priority=4)
    def describe(self: object, first: int, second: int = 0) -> None:
        raise AssertionError("it is the worker's that is called")

    immutable = describe.si(1, second=5).apply_async((7,), routing_key="more.describe")
    open_one = describe.s(second=5).delay(2)
    with_options = describe.signature((3,), queue="side").set(priority=1).apply_async()

    answers = [each.get(timeout=60) for each in (immutable, open_one, with_options)]
    assert [each["sum"] for each in answers] == [6, 7, 3]
    assert [each["queue"] for each in answers] == ["more", "more", "side"]
    assert [each["priority"] for each in answers] == [4, 4, 1]


def test_an_exception_comes_back(old_fleet: OldFleet) -> None:
    result = old_fleet.app().send_task(FAIL, ("not today",))

    with pytest.raises(ValueError, match="not today"):
        result.get(timeout=60)

    assert isinstance(result.get(propagate=False), ValueError)
    assert result.failed() and result.state == "FAILURE"
    assert "not today" in str(result.info) and "not today" in str(result.traceback)


def test_an_unknown_task_is_pending_and_waiting_for_it_times_out(
    embedded_fleet: OldFleet,
) -> None:
    result = embedded_fleet.app().AsyncResult(str(uuid.uuid4()))

    assert result.state == "PENDING"
    assert not result.ready()
    assert result.worker is None and result.info is None
    with pytest.raises(TimeoutError, match="has not ended within"):
        result.get(timeout=0.05)


def test_a_task_waits_until_its_time_has_come(old_fleet: OldFleet) -> None:
    app = old_fleet.app()
    sent = time.time()
    later = app.send_task("describe", (1,), countdown=2)
    when = datetime.now(timezone.utc) + timedelta(seconds=2)
    at_a_time = app.send_task("describe", (2,), eta=when)
    at_once = app.send_task("describe", (3,), expires=60)

    assert at_once.get(timeout=60)["sum"] == 3
    assert later.get(timeout=60)["sum"] == 1
    assert at_a_time.get(timeout=60)["sum"] == 2
    task = app.client.tasks([later.id])[later.id]
    assert task.started_at >= sent + 1.9  # the two clocks are this machine's


def test_a_task_that_has_expired_does_not_start(old_fleet: OldFleet) -> None:
    result = old_fleet.app().send_task("describe", (1,), expires=datetime(2020, 1, 1))

    with pytest.raises(TaskRevokedError, match="expired"):
        result.get(timeout=60)
    assert result.state == "REVOKED"


def test_revoking_leaves_what_runs_unless_it_shall_be_terminated(
    old_fleet: OldFleet, tmp_path: Path
) -> None:
    app = old_fleet.app()
    path = tmp_path / "running"
    result = app.send_task(GO_ON, (str(path),))
    eventually(path.exists)
    assert result.state == "STARTED"

    result.revoke()
    Path(f"{path}.go").touch()
    assert result.get(timeout=60) == "went on"

    second = tmp_path / "second"
    stopped = app.send_task(GO_ON, (str(second),))
    eventually(second.exists)
    stopped.revoke(terminate=True, signal="SIGKILL")
    with pytest.raises(TaskRevokedError):
        stopped.get(timeout=60)
    assert stopped.state == "REVOKED"


def test_revoking_takes_back_what_waits(old_fleet: OldFleet) -> None:
    app = old_fleet.app()
    result = app.send_task("describe", (1,), queue="nobody-serves-it")

    app.control.revoke(result.id)

    assert result.state == "REVOKED"
    with pytest.raises(TaskRevokedError):
        result.get(timeout=60)


def test_a_forgotten_result_is_pending_again(old_fleet: OldFleet) -> None:
    result = old_fleet.app().send_task("describe", (1,))
    assert result.get(timeout=60)["sum"] == 1

    result.forget()

    assert result.state == "PENDING" and result.result is None


def test_control_reports_the_workers_and_what_they_run(old_fleet: OldFleet, tmp_path: Path) -> None:
    app = old_fleet.app()
    inspect = app.control.inspect(timeout=1.0)

    assert inspect.ping() == {HOSTNAME: {"ok": "pong"}}
    assert app.control.ping() == [{HOSTNAME: {"ok": "pong"}}]
    queues = inspect.active_queues()
    assert queues is not None
    assert [each["name"] for each in queues[HOSTNAME]] == ["dagster", "side", "more"]
    stats = inspect.stats()
    assert stats is not None and stats[HOSTNAME]["pool"]["max-concurrency"] == SLOTS
    registered = inspect.registered()
    assert registered is not None and "execute_plan" in registered[HOSTNAME]
    assert inspect.reserved() == {HOSTNAME: []}
    assert app.control.inspect(["another@host"]).ping() is None

    path = tmp_path / "running"
    result = app.send_task(GO_ON, (str(path),))
    eventually(path.exists)

    # A task that another test has revoked is no longer listed once its worker has stopped it.
    def one_active() -> list[dict[str, Any]]:
        active: list[dict[str, Any]] = (inspect.active() or {}).get(HOSTNAME, [])
        return active if len(active) == 1 else []

    (active,) = eventually(one_active)
    assert (active["id"], active["name"]) == (result.id, GO_ON)
    assert active["worker_pid"] == int(path.read_text())
    Path(f"{path}.go").touch()
    assert result.get(timeout=60) == "went on"


def test_a_command_that_workers_do_not_know_is_refused(embedded_fleet: OldFleet) -> None:
    with pytest.raises(ConfigError, match="do not know the command 'add_consumer'"):
        embedded_fleet.app().control.broadcast("add_consumer", {"queue": "x"})


def test_eager_tasks_run_where_they_are_called() -> None:
    app = make_app({"config_source": {"task_always_eager": True}})

    @app.task
    def pid() -> int:
        return os.getpid()

    @app.task
    def broken() -> None:
        raise KeyError("no")

    @app.task(bind=True)
    def about_me(self: Any, number: int) -> list[object]:
        return [self.request.id, self.request.is_eager, self.request.args, number]

    assert about_me.apply_async((5,), task_id="mine").get() == ["mine", True, (5,), 5]
    assert about_me.request.called_directly

    assert pid.delay().get() == os.getpid()
    assert pid.apply_async(task_id="mine").id == "mine"
    failed = broken.delay()
    assert failed.failed() and "KeyError" in str(failed.traceback)
    with pytest.raises(KeyError):
        failed.get()
    app.conf.task_eager_propagates = True
    with pytest.raises(KeyError):
        broken.delay()


def test_a_task_is_still_a_function() -> None:
    app = make_app({})

    @app.task
    def twice(number: int) -> int:
        """Double it."""
        return 2 * number

    assert twice(4) == 8
    assert twice.s(4)() == 8
    assert twice.apply((4,)).get() == 8
    assert twice.__doc__ == "Double it."
    assert app.tasks[f"{__name__}.twice"] is twice
    assert twice.request.called_directly


def test_routes_name_the_queue_of_what_names_none() -> None:
    app = make_app_with_task_routes({"reports.*": {"queue": "reports"}, "exact": "other"}, {})
    app.conf.task_queues = [Queue("by-key", "some.key")]

    assert app.queue_for("reports.daily", {}) == "reports"
    assert app.queue_for("reports.daily", {"queue": "mine"}) == "mine"
    assert app.queue_for("exact", {}) == "other"
    assert app.queue_for("anything", {"routing_key": "some.key"}) == "by-key"
    assert app.queue_for("anything", {}) == "dagster"


@pytest.mark.parametrize("name", ["stamped_headers", "contdown"])
def test_an_option_that_cannot_be_kept_is_refused(name: str) -> None:
    app = make_app({"config_source": {"task_always_eager": True}})
    task = app.task(name="t")(print)

    with pytest.raises(ConfigError, match=f"option '{name}' is not served"):
        task.apply_async(**{name: 1})


def test_what_the_app_does_not_have_raises_an_error_that_explains() -> None:
    with pytest.raises(AttributeError, match=r"'amqp'.*dagster_taskiq\.app\.broker"):
        make_app({}).amqp  # noqa: B018


def test_configuration_is_read_and_written_by_celerys_names() -> None:
    app = make_app({"broker": "redis://:secret@host/3", "config_source": {"result_expires": 60}})

    assert app.conf.broker_url == "redis://:secret@host/3"
    assert app.conf["result_expires"] == 60
    assert app.conf.task_default_priority == 5
    assert app.conf.worker_max_tasks_per_child is None
    assert app.configuration.settings.result_ttl == 60
    app.conf.update(result_expires=90, task_default_queue="elsewhere")
    assert app.configuration.settings.result_ttl == 90
    assert app.configuration.settings.queue == "elsewhere"
    with pytest.raises(AttributeError, match="Did you mean result_expires"):
        app.conf.result_expire  # noqa: B018
    assert "secret" not in repr(app) + repr(app.conf)
