"""What a process knows of the task it performs, and what it has forgotten afterwards."""

from taskiq import TaskiqMessage

from dagster_taskiq.execution.perform import perform
from dagster_taskiq.execution.task_context import current_message
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.memory.broker import MemoryBroker


def test_a_message_is_the_current_one_only_while_its_task_runs() -> None:
    broker = MemoryBroker(Settings(broker="memory://performing", prefix="p"))
    seen: list[str] = []

    @broker.task(task_name="outer")
    def outer() -> None:
        perform(broker, message("inner"))
        seen.append(current_id())

    @broker.task(task_name="inner")
    def inner() -> None:
        seen.append(current_id())
        raise RuntimeError("an end like any other")

    assert not perform(broker, message("outer")).is_err
    assert seen == ["id-of-inner", "id-of-outer"]
    assert current_message() is None


def current_id() -> str:
    current = current_message()
    assert current is not None
    return current.task_id


def message(name: str) -> TaskiqMessage:
    return TaskiqMessage(
        task_id=f"id-of-{name}", task_name=name, labels={}, labels_types={}, args=[], kwargs={}
    )
