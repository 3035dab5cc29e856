"""The hooks of middlewares for what is sent: what they may do to a step, and where they run."""

import asyncio
import uuid
from collections.abc import Iterator

import pytest
from taskiq import TaskiqMessage, TaskiqMiddleware

from dagster_taskiq import app
from dagster_taskiq.client import send
from dagster_taskiq.execution.own_tasks import own_tasks_of
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport import current
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.hooks import observed_sending
from dagster_taskiq.wire.task_names import EXECUTE_PLAN
from dagster_taskiq.wire.task_request import TaskRequest


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch) -> Iterator[QueueBroker]:
    """A broker whose middlewares see what is sent, as in a worker's child."""
    monkeypatch.setattr(current, "_project", None)
    broker = app.make(Settings(broker=f"memory://{uuid.uuid4().hex}"))
    own_tasks = own_tasks_of(broker)
    current.use_project(current.Project(broker, own_tasks.start_hooks))
    yield broker
    own_tasks.shut_down()


def step(key: str) -> TaskiqMessage:
    return TaskRequest(
        id=f"r1:{key}:0", name=EXECUTE_PLAN, kwargs={}, queue="dagster", run_id="r1", step_key=key
    ).message()


def test_what_hooks_do_to_a_step_that_is_sent_changes_new_labels_only(
    project: QueueBroker, caplog: pytest.LogCaptureFixture
) -> None:
    seen = []

    class Interferes(TaskiqMiddleware):
        def pre_send(self, message: TaskiqMessage) -> TaskiqMessage:
            message.kwargs["added"] = 1
            message.task_name = "another"
            message.labels |= {
                "tenant": "acme",
                "data": {"n": [1, None]},
                "queue_name": "nowhere",
                "time_limit": 1,
                "ack_type": "when_received",
                "dagster_taskiq_attempt": 7,
                "no_json": object(),
                "no_number": float("nan"),
            }
            raise ValueError("no")

        async def post_send(self, message: TaskiqMessage) -> None:
            seen.append(message.labels["tenant"])
            raise ValueError("too late")

    project.add_middlewares(Interferes())
    message = step("a")
    before = message.model_copy(deep=True)
    with observed_sending([message]):
        added = {name: message.labels[name] for name in message.labels.keys() - before.labels}
        assert added == {"tenant": "acme", "data": {"n": [1, None]}}
        assert not seen
    assert seen == ["acme"]
    assert caplog.text.count("which changes nothing for the task") == 2
    before.labels |= added
    assert message == before


def test_post_send_is_not_called_for_what_was_not_sent(project: QueueBroker) -> None:
    seen = []

    class Sees(TaskiqMiddleware):
        def post_send(self, message: TaskiqMessage) -> None:
            seen.append(message.task_id)

    project.add_middlewares(Sees())
    with pytest.raises(ConnectionError), observed_sending([step("a")]):
        raise ConnectionError
    assert seen == []


class SeesLoops(TaskiqMiddleware):
    """Notes on which event loops it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.loops: list[asyncio.AbstractEventLoop] = []

    async def startup(self) -> None:
        self.loops.append(asyncio.get_running_loop())

    async def pre_send(self, message: TaskiqMessage) -> TaskiqMessage:
        self.loops.append(asyncio.get_running_loop())
        return message

    async def post_send(self, message: TaskiqMessage) -> None:
        self.loops.append(asyncio.get_running_loop())


def test_hooks_are_called_on_the_loop_on_which_they_were_started(project: QueueBroker) -> None:
    sees = SeesLoops()
    project.add_middlewares(sees)
    project.register_task(lambda: 1, task_name="own")
    task = project.find_task("own")
    assert task is not None
    with observed_sending([step("a"), step("b")]):
        pass
    assert send(task).result(10) == 1
    assert len(sees.loops) == 1 + 4 + 2
    assert len(set(sees.loops)) == 1


def test_a_start_up_that_fails_keeps_no_step_from_being_sent(
    project: QueueBroker, caplog: pytest.LogCaptureFixture
) -> None:
    class Fails(SeesLoops):
        async def startup(self) -> None:
            raise ValueError("no")

    fails = Fails()
    project.add_middlewares(fails)
    with observed_sending([step("a")]):
        assert len(fails.loops) == 1
    assert "The start-up of the broker raised an error" in caplog.text
