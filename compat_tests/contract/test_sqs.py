"""What is SQS's own: claims that outlive who made them, long delays, requests that cost, and limits
of how many of them there may be.

docs/how-to/sqs.md has the figures that are held here, and what the server of these tests does not
imitate.
"""

import asyncio
import signal
import time
from collections.abc import Callable, Iterator

import pytest
from dagster import DagsterInstance, DagsterRunStatus

from compat_tests.brokers import SQS, SQS_REDIS
from compat_tests.conftest import StartWorker
from compat_tests.contract.test_broker import (
    Slots,
    claim,
    ids,
    listening,
    move_clock,
    opened,
    put,
)
from compat_tests.executor import sqs_jobs
from compat_tests.executor.outages import run_through
from compat_tests.executor.runs import House
from compat_tests.executor.scratch import Scratch
from compat_tests.faults.conftest import Figure, figure
from compat_tests.sending import USER_TASKS, Sender, open_sender
from compat_tests.sqs_door import SqsDoor, sqs_door
from compat_tests.sqs_servers import pass_time, queue_counts
from compat_tests.waiting import eventually, eventually_async
from compat_tests.workers import WorkerProcess, running_worker
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.sqs.delays import LONGEST_SECONDS
from dagster_taskiq.transport.sqs.url import LONGEST_WAIT_SECONDS

__all__ = ["figure"]

SUCCESS = DagsterRunStatus.SUCCESS

#: The most requests of an idle worker with one queue, for each hour, by which docs/how-to/sqs.md
#: has the price of twenty.
IDLE_HOUR = 10_000 / 20
#: The most receives for each step: that of its message, and an empty one.
RECEIVES = 2
#: The most receives in a second while steps are awaited: one each for those of a higher priority,
#: for others, and for runs. On a slow machine a run lasts longer, so that there are more of them.
RECEIVES_A_SECOND = 3
#: What a process that sends or receives asks for once.
FIRST_REQUESTS = {"GetQueueUrl", "GetQueueAttributes", "ListQueues"}


@pytest.fixture(scope="module", params=SQS)
def broker_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def door(settings: Settings) -> Iterator[SqsDoor]:
    with sqs_door(str(settings.broker_options["endpoint_url"])) as door:
        yield door


@pytest.fixture
def counted(settings: Settings, door: SqsDoor) -> Settings:
    """Settings by which each request passes the door."""
    return settings.replace(broker_options={**settings.broker_options, "endpoint_url": door.url})


@pytest.fixture
def scratch(tmp_path: Callable[..., object]) -> Scratch:
    directory = tmp_path / "notes"
    directory.mkdir()
    return Scratch(directory)


@pytest.fixture
def worker(counted: Settings, dagster_home: object, tmp_path: object) -> Iterator[WorkerProcess]:
    """A worker of four slots, each of whose requests passes the door."""
    with running_worker(counted, tmp_path, "-i", USER_TASKS, "-c", "4") as worker:
        yield worker


# -- claims --------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_what_nobody_started_within_the_lease_is_delivered_again(settings: Settings) -> None:
    """With the time of the lease, and not the queue's own: so the lease may be any."""
    async with opened(settings, lease=600.0) as gone, opened(settings, lease=600.0) as other:
        await put(gone, "t")
        assert (await claim(gone)).attempt == 1
        await move_clock(settings, 590.0)
        assert await other.claim() is None
        await move_clock(settings, 15.0)
        again = await claim(other)
        assert (again.task_id, again.attempt) == ("t", 2)


@pytest.mark.anyio
@pytest.mark.parametrize("broker_kind", [SQS_REDIS], indirect=True)
async def test_what_a_listener_holds_for_longer_than_the_lease_stays_its_own(
    settings: Settings,
) -> None:
    """So it is while the backend is away, in which the start of its task is recorded."""
    async with opened(settings, lease=3.0) as broker, opened(settings) as other:
        async with listening(broker) as listener:
            await put(other, "t")
            await eventually_async(lambda: listener.has(1))
            until = time.monotonic() + 6.0
            while time.monotonic() < until:
                assert await other.claim() is None
                await asyncio.sleep(0.2)
            await listener.messages[0].ack()
        await move_clock(settings, 60.0)
        assert await other.claim() is None


def test_what_is_sent_to_a_worker_that_was_killed_comes_to_another(
    counted: Settings, door: SqsDoor, start_worker: StartWorker
) -> None:
    """SQS may answer a request of somebody who is gone: the message is then hidden for a lease."""
    arguments = ("-i", USER_TASKS, "-c", "1")
    changes = {"broker_options": counted.broker_options}
    killed = start_worker(*arguments, **changes)
    eventually(lambda: door.count("ReceiveMessage") >= 2, "it waits for both kinds of work")
    killed.process.kill()
    killed.wait()
    with open_sender(counted) as sender:
        task_id = sender.send("add", 1, 2)
        start_worker(*arguments, **changes)
        assert sender.value(task_id) == 3


def polling_for(settings: Settings, seconds: int) -> Settings:
    return settings.replace(
        broker_options={**settings.broker_options, "wait_time_seconds": seconds}
    )


@pytest.mark.anyio
async def test_what_is_sent_when_a_listener_has_ended_is_not_hidden(settings: Settings) -> None:
    """No poll of a process that has ended is left at the server, where it would take a message."""
    async with opened(settings) as other:
        async with opened(polling_for(settings, 3)) as broker, listening(broker) as listener:
            await put(other, "t")
            await eventually_async(lambda: listener.has(1))
            await listener.messages[0].ack()
            await asyncio.sleep(0.5)  # it polls again
        await put(other, "u")
        assert (await claim(other)).task_id == "u"


@pytest.mark.anyio
@pytest.mark.parametrize("broker_kind", [SQS_REDIS], indirect=True)
async def test_what_is_sent_when_an_idle_worker_has_ended_is_not_hidden(
    settings: Settings, start_worker: StartWorker
) -> None:
    own = polling_for(settings, 4)
    worker = start_worker("-q", "q", "-c", "1", broker_options=own.broker_options)
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert "Waiting for SQS to answer" in worker.output()
    async with opened(settings) as other:
        await put(other, "t")
        assert (await claim(other)).task_id == "t"


@pytest.mark.parametrize("broker_kind", [SQS_REDIS], indirect=True)
def test_a_second_signal_ends_a_worker_that_waits_for_its_polls(
    settings: Settings, start_worker: StartWorker
) -> None:
    own = polling_for(settings, LONGEST_WAIT_SECONDS)
    worker = start_worker("-c", "1", broker_options=own.broker_options)
    worker.signal(signal.SIGTERM)
    eventually(lambda: "Waiting for SQS to answer" in worker.output(), "it waits for its polls")
    worker.signal(signal.SIGTERM)
    assert worker.wait(timeout=LONGEST_WAIT_SECONDS / 2) == 0


def test_a_delay_of_an_hour_holds(settings: Settings, start_worker: StartWorker) -> None:
    """SQS delays by a quarter of an hour at most: whoever has it too early sends it on."""
    start_worker("-i", USER_TASKS, "-c", "1")
    endpoint = str(settings.broker_options["endpoint_url"])

    def delayed() -> bool:
        counts = queue_counts(endpoint, settings.prefix)
        return (counts["Delayed"], counts[""], counts["NotVisible"]) == (1, 0, 0)

    with open_sender(settings) as sender:
        task_id = sender.send("add", 1, 2, delay=3600)
        for _ in range(3600 // LONGEST_SECONDS):
            eventually(delayed, "it waits for the next quarter of an hour")
            pass_time(endpoint, settings.prefix, LONGEST_SECONDS - 60)
            assert delayed()
            pass_time(endpoint, settings.prefix, 60)
        # What is left are the seconds that the test itself has taken.
        eventually(lambda: pass_time(endpoint, settings.prefix, 1) or _has_ended(sender, task_id))
        assert sender.value(task_id) == 3


def _has_ended(sender: Sender, task_id: str) -> bool:
    return bool(sender.call(sender.broker.result_backend.is_result_ready, task_id))


# -- requests, and their price -------------------------------------------------------------------


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(
    ("job", "steps", "batches"),
    [
        pytest.param("chain", sqs_jobs.CHAIN, sqs_jobs.CHAIN, id="chain"),
        pytest.param("fan", sqs_jobs.FAN, sqs_jobs.FAN // 10, id="fan"),
    ],
)
def test_requests_for_each_step_are_no_more_than_stated(
    counted: Settings,
    instance: DagsterInstance,
    door: SqsDoor,
    scratch: Scratch,
    figure: Figure,
    job: str,
    steps: int,
    batches: int,
) -> None:
    eventually(lambda: door.count("ReceiveMessage") >= 2, "the worker waits")
    door.forget()
    since = time.monotonic()
    outcome = House(counted, instance).run(getattr(sqs_jobs, job), scratch)
    assert outcome.status is SUCCESS
    assert (scratch.count("steps"), len(set(scratch.lines("steps")))) == (steps, steps)
    # The last message is deleted while its step runs; nothing more is asked for then.
    eventually(lambda: door.count("DeleteMessage") >= steps, "all are deleted")
    seconds = time.monotonic() - since
    found = door.actions()
    figure(f"requests of {steps} steps", f"{dict(sorted(found.items()))} in {seconds:.1f} s")
    assert found.pop("ReceiveMessage") <= RECEIVES * steps + RECEIVES_A_SECOND * (seconds + 1)
    assert (found.pop("SendMessageBatch"), found.pop("DeleteMessage")) == (batches, steps)
    assert found.keys() <= FIRST_REQUESTS and sum(found.values()) <= len(FIRST_REQUESTS)


def test_an_idle_worker_asks_no_more_often_than_stated(
    counted: Settings,
    door: SqsDoor,
    start_worker: StartWorker,
    figure: Figure,
) -> None:
    """Each poll waits for two seconds here, and for twenty by default: so many fewer there are."""
    wait = 2
    options = {**counted.broker_options, "wait_time_seconds": wait}
    start_worker("-c", "4", broker_options=options)
    eventually(lambda: door.count("ReceiveMessage") >= 2, "it waits")
    door.forget()
    since = time.monotonic()
    eventually(lambda: door.count("ReceiveMessage") >= 6, "it has waited several times")
    seconds = time.monotonic() - since
    found = door.actions()
    figure("requests of an idle worker", f"{found} in {seconds:.1f} s")
    polls = found.pop("ReceiveMessage")
    # For steps, for those with a higher priority, which is in use, and for runs. On a slow machine
    # there are fewer.
    assert polls <= 3 * (seconds / wait + 1)
    # Beside them, one list of queues a minute.
    assert set(found) <= {"ListQueues"} and found.get("ListQueues", 0) <= 1 + seconds / 60
    assert 2 * 3600 / LONGEST_WAIT_SECONDS + 60 <= IDLE_HOUR


# -- throttling ----------------------------------------------------------------------------------


def test_a_run_goes_on_after_all_requests_were_throttled(
    counted: Settings,
    worker: WorkerProcess,
    instance: DagsterInstance,
    door: SqsDoor,
    scratch: Scratch,
) -> None:
    def throttle(outcome: object) -> None:
        door.throttle()
        before = door.count()
        scratch.note("go")
        eventually(lambda: door.count() >= before + 6, "many are refused")
        door.relent()

    run_through(House(counted, instance), scratch, throttle)
    assert worker.output().count("Traceback") == 0


@pytest.mark.test_all("test_a_run_goes_on_after_all_requests_were_throttled")
@pytest.mark.usefixtures("worker")
def test_a_run_goes_on_while_every_other_request_is_refused(
    counted: Settings, instance: DagsterInstance, door: SqsDoor, scratch: Scratch
) -> None:
    house = House(counted, instance)
    outcome = house.create(sqs_jobs.fan, scratch)
    times = 0

    def meanwhile() -> None:
        nonlocal times
        times += 1
        door.throttle() if times % 10 < 5 else door.relent()

    house.execute(outcome, sqs_jobs.fan, meanwhile)
    door.relent()
    assert outcome.status is SUCCESS
    assert (scratch.count("steps"), len(set(scratch.lines("steps")))) == (50, 50)


@pytest.mark.timeout(420)
@pytest.mark.test_all("fifty steps are run on every push, each once as well")
def test_five_hundred_steps_are_run_once_each(
    counted: Settings,
    worker: WorkerProcess,
    instance: DagsterInstance,
    door: SqsDoor,
    scratch: Scratch,
    figure: Figure,
) -> None:
    door.forget()
    outcome = House(counted, instance).run(sqs_jobs.many, scratch)
    assert outcome.status is SUCCESS, worker.output()
    assert (scratch.count("steps"), len(set(scratch.lines("steps")))) == (500, 500)
    figure("requests of 500 steps", dict(sorted(door.actions().items())))


def test_no_log_shows_the_token_of_a_session(
    settings: Settings, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """botocore logs the headers of its requests, for who asks for all there is."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", "s3cr3t-t0k3n")
    worker = start_worker("-i", USER_TASKS, "-c", "1", "-l", "debug")
    with open_sender(settings) as sender:
        assert sender.value(sender.send("add", 1, 2)) == 3
    assert "DEBUG" in worker.output()
    assert "s3cr3t" not in worker.output()


@pytest.mark.anyio
async def test_the_next_of_a_high_priority_comes_first_however_slow_its_answer(
    counted: Settings, door: SqsDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The machine of the tests may be slower than SQS ever is.
    monkeypatch.setattr("dagster_taskiq.transport.sqs.polls.NEXT_SECONDS", (60.0, 60.0))
    async with opened(counted) as broker:
        broker.gate = gate = Slots(1)
        await put(broker, "high-1", "high-2", priority=1)
        async with listening(broker) as listener:
            await eventually_async(lambda: listener.has(1))
            await put(broker, "low")
            door.delays["--p1"] = 1.0
            for number in (2, 3):
                gate.free.release()
                await eventually_async(lambda number=number: listener.has(number))
            found = [each.partition("-")[0] for each in listener.ids]
    assert found == ["high", "high", "low"]


# -- what is received by taskiq's own means --------------------------------------------------------


@pytest.mark.anyio
async def test_messages_are_listened_to_and_acknowledged(settings: Settings) -> None:
    async with opened(settings) as broker, opened(settings) as sender:
        await put(sender, "one", "two")
        found = []
        async for message in broker.listen():
            await message.ack()
            found.append(broker.formatter.loads(message.data).task_id)
            if len(found) == 2:
                break
        assert found == ["one", "two"]
        assert await sender.depths() == []
        await move_clock(settings, 2 * settings.lease)
        assert await ids(sender) == []
