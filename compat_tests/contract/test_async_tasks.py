"""A worker that executes several async tasks in each of its slots, because it was told to."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.conftest import make_settings
from compat_tests.sending import Sender, open_sender
from compat_tests.waiting import eventually
from compat_tests.workers import running_worker
from dagster_taskiq.client import client_for
from dagster_taskiq.errors import ChildDiedError, TaskRevokedError, TimeLimitError
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.wire.records import TaskState

TASKS = "compat_tests.waiting_tasks"
SLOTS, ROOM = 2, 20

pytestmark = pytest.mark.parametrize("broker_kind", ["embedded"], indirect=True)


@pytest.fixture(scope="module")
def shared(
    broker_kind: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Settings]:
    directory = tmp_path_factory.mktemp("async")
    settings = make_settings(broker_kind, directory, request).replace(lease=60.0)
    options = ("-i", TASKS, "-c", str(SLOTS), "--async-tasks", str(ROOM))
    with running_worker(settings, directory, *options):
        yield settings


@pytest.fixture
def sender(shared: Settings) -> Iterator[Sender]:
    with open_sender(shared) as sender:
        yield sender


def send(sender: Sender, name: str, *args: object, **labels: object) -> str:
    return sender.send(f"{TASKS}:{name}", *args, **labels)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_forty_tasks_wait_at_once_in_two_processes(sender: Sender, tmp_path: Path) -> None:
    go, started = tmp_path / "go", tmp_path / "started"
    sent = [send(sender, "wait_for", str(go), str(started)) for _ in range(SLOTS * ROOM)]
    eventually(lambda: len(lines(started)) == len(sent))
    go.touch()
    assert {sender.value(each) for each in sent} == set(map(int, lines(started)))
    assert len(set(lines(started))) == SLOTS


def test_more_than_have_room_take_their_turns(sender: Sender, tmp_path: Path) -> None:
    go, started = tmp_path / "go", tmp_path / "started"
    go.touch()
    sent = [send(sender, "wait_for", str(go), str(started)) for _ in range(3 * ROOM * SLOTS)]
    pids = [sender.value(each) for each in sent]
    assert sorted(map(str, pids)) == sorted(lines(started))


def test_one_is_cancelled_and_the_others_go_on(
    shared: Settings, sender: Sender, tmp_path: Path
) -> None:
    go, started, ended = tmp_path / "go", tmp_path / "started", tmp_path / "ended"
    sent = [send(sender, "wait_for", str(go), str(started), str(ended)) for _ in range(3)]
    late = send(sender, "wait_for", str(go), str(started), str(ended), soft_time_limit=0.2)
    eventually(lambda: len(lines(started)) == 4)
    client_for(shared).revoke([sent[0]], "not wanted any more")
    assert isinstance(sender.error(sent[0]), TaskRevokedError)
    assert isinstance(sender.error(late), TimeLimitError)
    assert len(lines(ended)) == 2, "both have cleaned up"
    go.touch()
    assert [sender.value(each) for each in sent[1:]] == [int(lines(started)[0])] * 2


def test_with_the_process_of_one_all_in_it_fail_and_later_ones_run(
    shared: Settings, sender: Sender, tmp_path: Path
) -> None:
    go, started = tmp_path / "go", tmp_path / "started"
    beside = send(sender, "wait_for", str(go), str(started))
    eventually(lambda: lines(started))
    deadly = send(sender, "be_killed")
    assert isinstance(sender.error(deadly), ChildDiedError)
    assert isinstance(sender.error(beside), ChildDiedError)
    assert client_for(shared).tasks([beside])[beside].state is TaskState.FAILURE
    go.touch()
    assert sender.value(send(sender, "wait_for", str(go), str(started)))


def test_a_plain_task_has_a_slot_and_a_process_of_its_own(sender: Sender, tmp_path: Path) -> None:
    go, started = tmp_path / "go", tmp_path / "started"
    waits = send(sender, "wait_for", str(go), str(started))
    eventually(lambda: len(lines(started)) == 1)
    blocks = send(sender, "block", str(go), str(started))
    eventually(lambda: len(lines(started)) == 2)
    full = send(sender, "block", str(go), str(started))
    joins = send(sender, "wait_for", str(go), str(started))
    eventually(lambda: len(lines(started)) == 3)
    go.touch()
    pids = [sender.value(each) for each in (waits, blocks, full, joins)]
    assert pids[0] == pids[3]
    assert pids[0] not in pids[1:3]


def test_tasks_that_all_wait_for_others_leave_their_slots_to_them(sender: Sender) -> None:
    numbers = range(SLOTS * ROOM)
    sent = [send(sender, "ask_for_a_square", number) for number in numbers]
    assert [sender.value(each) for each in sent] == [number * number for number in numbers]
    deep = [send(sender, "ask_for_a_square", number, 5) for number in range(5)]
    assert [sender.value(each) for each in deep] == [0, 1, 4, 9, 16]


def test_the_slots_that_were_lent_are_all_there_again(sender: Sender, tmp_path: Path) -> None:
    go, started = tmp_path / "go", tmp_path / "started"
    assert sender.value(send(sender, "ask_for_a_square", 3)) == 9
    full = [send(sender, "block", str(go), str(started)) for _ in range(SLOTS + 1)]
    eventually(lambda: len(lines(started)) == SLOTS)
    go.touch()
    assert len({sender.value(each) for each in full[:SLOTS]}) == SLOTS
    assert sender.value(full[-1])
