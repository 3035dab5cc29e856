"""How many steps run at once, in which order, and where."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from dagster import DagsterEventType, DagsterInstance, DagsterRunStatus

from compat_tests.conftest import StartWorker, make_settings, on_each_broker_and_storage
from compat_tests.executor import jobs
from compat_tests.executor.runs import House
from compat_tests.executor.scratch import Scratch
from compat_tests.waiting import eventually
from compat_tests.workers import running_worker
from dagster_taskiq.client import client_for
from dagster_taskiq.runs import unserved_queues
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.settings.urls import redact

SUCCESS = DagsterRunStatus.SUCCESS


def most_in(scratch: Scratch, room: str) -> int:
    return max(int(line) for line in scratch.lines(f"seen-{room}"))


@pytest.mark.oldest
def test_max_concurrent_is_reached_and_never_passed(fleet: House, scratch: Scratch) -> None:
    outcome = fleet.run(jobs.at_most_two, scratch, executor={"max_concurrent": 2})
    assert outcome.status is SUCCESS
    assert scratch.count("seen-any") == 5
    assert most_in(scratch, "any") == 2


@pytest.mark.oldest
def test_a_limit_by_tag_holds_for_its_steps_and_leaves_the_others_alone(
    fleet: House, scratch: Scratch
) -> None:
    limits = [{"key": "room", "value": "single", "limit": 1}]
    outcome = fleet.run(jobs.limited_by_tag, scratch, executor={"tag_concurrency_limits": limits})
    assert outcome.status is SUCCESS
    assert (scratch.count("seen-single"), most_in(scratch, "single")) == (4, 1)
    assert most_in(scratch, "any") == 2


@pytest.fixture
def bath(fleet: House) -> Iterator[None]:
    fleet.instance.event_log_storage.set_concurrency_slots("bath", 1)
    yield
    fleet.instance.event_log_storage.delete_concurrency_limit("bath")


@on_each_broker_and_storage
@pytest.mark.oldest
@pytest.mark.usefixtures("bath")
def test_a_pool_lets_in_as_many_as_it_has_slots_and_the_log_says_who_waits(
    fleet: House, scratch: Scratch
) -> None:
    outcome = fleet.run(jobs.pooled, scratch)
    assert outcome.status is SUCCESS
    assert (scratch.count("seen-bath"), most_in(scratch, "bath")) == (3, 1)
    waited = {event.step_key for event in outcome.of(DagsterEventType.ENGINE_EVENT)}
    assert waited == {"bather_1", "bather_2"}
    assert outcome.says("blocked", "pool bath")
    info = fleet.instance.event_log_storage.get_concurrency_info("bath")
    assert (info.active_slot_count, info.pending_step_count) == (0, 0)


@pytest.mark.oldest
def test_a_step_may_start_before_its_upstream_step_has_ended_if_configured(
    fleet: House, scratch: Scratch
) -> None:
    early = {"step_dependency_config": {"require_upstream_step_success": False}}
    outcome = fleet.run(jobs.overlapping, scratch, executor=early)
    assert outcome.status is SUCCESS
    assert outcome.succeeded == {"gives_early", "double", "at_the_end"}


def test_each_queue_tag_routes_its_step_and_the_newer_name_wins(
    fleet: House, scratch: Scratch, tmp_path: Path
) -> None:
    only_other = ("-c", "1", "-q", jobs.OTHER_QUEUE)
    with running_worker(fleet.settings, tmp_path, *only_other, name="other-worker"):
        outcome = fleet.run(jobs.routed, scratch)
    assert outcome.status is SUCCESS
    ran_on = {
        str(event.step_key): event.engine_event_data.metadata["worker"].value
        for event in outcome.of(DagsterEventType.STEP_WORKER_STARTED)
    }
    assert str(ran_on.pop("by_default")).startswith("shared-")
    assert ran_on == {
        "by_tag": "other-worker",
        "by_older_tag": "other-worker",
        "by_newer_of_both": "other-worker",
    }


def test_higher_priorities_run_first_and_equals_in_order_of_arrival(
    own: House, start_worker: StartWorker, scratch: Scratch
) -> None:
    older_tag = {"dagster-celery/run_priority": "2"}
    newer_wins = {"dagster-celery/run_priority": "-99", "dagster-taskiq/run_priority": "50"}
    with own.started(jobs.urgent, scratch, tags=newer_wins) as urgent:
        own.wait_until_queued(1)
        outcome = own.create(jobs.prioritised, scratch, tags=older_tag)
        came: list[object] = []

        def come_when_all_wait() -> None:
            # Nobody works before, so all that will ever be sent waits at the same time.
            if not came and own.waiting() == 9:
                came.append(start_worker("-c", "1"))

        own.execute(outcome, jobs.prioritised, meanwhile=come_when_all_wait)
        assert (urgent.wait().status, outcome.status) == (SUCCESS, SUCCESS)
    assert scratch.lines("order") == [
        "urgent",  # 50 of its run, -1 of its own; 2 of the other run is added to all below
        "above_ten",
        "newer_of_both",
        "older",
        "of_dagster",
        "plain_1",
        "plain_2",
        "of_dagster_below",
        "below",
    ]


def test_in_process_higher_priorities_run_first_too(
    house_of_kind: Callable[[str], House], scratch: Scratch
) -> None:
    house_of_kind("memory").run(jobs.prioritised, scratch)
    assert scratch.lines("order")[:3] == ["above_ten", "newer_of_both", "older"]
    assert scratch.lines("order")[-1] == "below"


def test_dagsters_own_priority_counts_from_the_configured_one(
    house_of_kind: Callable[[str], House], scratch: Scratch
) -> None:
    house_of_kind("memory").run(jobs.prioritised, scratch, executor={"priority": 5})
    assert scratch.lines("order") == [
        "above_ten",
        "newer_of_both",  # 9
        "of_dagster",  # 3 above the 5 of those without a tag
        "older",  # 7
        "plain_1",
        "plain_2",
        "of_dagster_below",  # 2
        "below",
    ]


@pytest.mark.oldest
def test_a_queue_without_workers_is_reported_and_the_run_goes_on_with_the_first(
    fleet: House, scratch: Scratch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unserved_queues, "UNSERVED_SECONDS", 0.5)
    monkeypatch.setattr(unserved_queues, "UNSERVED_AGAIN_SECONDS", (0.5, 5.0))
    outcome = fleet.create(jobs.routed, scratch)
    with ExitStack() as stack:
        came: list[object] = []

        def come_when_asked_twice() -> None:
            said = [text for text in outcome.engine_says if "no worker serves" in text]
            if len(said) >= 2 and not came:
                late = ("-c", "1", "-q", jobs.OTHER_QUEUE)
                worker = running_worker(fleet.settings, tmp_path, *late, name="comes-late")
                came.append(stack.enter_context(worker))

        fleet.execute(outcome, jobs.routed, meanwhile=come_when_asked_twice)
    assert outcome.status is SUCCESS
    sentence = next(text for text in outcome.engine_says if "no worker serves" in text)
    assert "3 step(s)" in sentence
    assert f"(queues {fleet.settings.queue}, side)" in sentence
    assert "shared-" in sentence
    assert f"at {redact(fleet.settings.broker)}: " in sentence
    assert f"dagster-taskiq worker start -q {jobs.OTHER_QUEUE}" in sentence


def test_the_environment_is_read_where_the_config_says_so_at_any_depth(
    redis_url: str,
    instance: DagsterInstance,
    tmp_path: Path,
    scratch: Scratch,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    house = House(make_settings("redis", tmp_path, request), instance)
    monkeypatch.setenv("TEST_BROKER_URL", house.settings.broker)
    monkeypatch.setenv("TEST_PREFIX", house.settings.prefix)
    monkeypatch.setenv("TEST_CLIENT_NAME", "named-by-the-environment")
    executor = {
        "broker": {"env": "TEST_BROKER_URL"},
        "prefix": {"env": "TEST_PREFIX"},
        "broker_options": {"client_name": {"env": "TEST_CLIENT_NAME"}},
    }
    with running_worker(house.settings, tmp_path, "-c", "1"):
        outcome = house.run(jobs.urgent, scratch, executor=executor)
    assert outcome.status is SUCCESS
    clients = redis.Redis.from_url(redis_url).client_list()
    assert "named-by-the-environment" in {client["name"] for client in clients}


def test_broker_and_backend_of_the_environment_serve_if_the_config_names_none(
    fleet: House, scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_TASKIQ_BROKER", fleet.settings.broker)
    monkeypatch.setenv("DAGSTER_TASKIQ_BACKEND", fleet.settings.backend or fleet.settings.broker)
    outcome = fleet.run(jobs.urgent, scratch, executor={"broker": None, "backend": None})
    assert outcome.status is SUCCESS


def test_with_nothing_configured_the_embedded_broker_lies_under_dagster_home(
    dagster_home: Path, instance: DagsterInstance, scratch: Scratch
) -> None:
    house = House(Settings(heartbeat_interval=0.5, lease=4.0), instance)
    with running_worker(house.settings, scratch.directory, "-c", "1"):
        outcome = house.run(jobs.urgent, scratch, executor={"broker": None})
    assert outcome.status is SUCCESS
    assert list(dagster_home.glob("dagster_taskiq/queue.db"))


@pytest.mark.oldest
def test_what_is_done_is_deleted_from_the_broker(fleet: House, scratch: Scratch) -> None:
    fleet.run(jobs.values, scratch)
    client = client_for(fleet.settings)
    eventually(lambda: not any(row.waiting or row.claimed for row in client.depths()))
    assert client.rejected() == 0
