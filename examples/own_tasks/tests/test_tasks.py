"""Tests of the tasks: each is executed where it is sent, with all that surrounds it."""

import pytest
from bikes import tasks, web
from bikes.stations import NoAnswerError

from dagster_taskiq.testing import SentTasks


async def test_a_station_is_counted_by_a_pipeline() -> None:
    for number in (1, 2):
        sent = await tasks.counting("north").kiq("north")
        result = await sent.wait_result()
        assert result.return_value == number
    assert await web.bikes() == {"north": 3}


async def test_a_station_that_does_not_answer_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent = await tasks.counting("harbour").kiq("harbour")
    result = await sent.wait_result()
    assert result.return_value == 1

    def fail(station: str, attempt: int) -> str:
        raise NoAnswerError(station)

    monkeypatch.setattr(tasks, "ask", fail)
    sent = await tasks.read_station.kiq("harbour")
    result = await sent.wait_result()
    with pytest.raises(NoAnswerError):
        result.raise_for_error()


async def test_a_function_is_tested_without_the_queue() -> None:
    assert tasks.bikes_in("BB-") == 2


async def test_old_counts_are_forgotten() -> None:
    await tasks.store.kiq(1, "south")
    sent = await tasks.forget_old.kiq(0)
    assert (await sent.wait_result()).return_value == 1


async def test_a_schedule_has_its_station_counted(sent_tasks: SentTasks) -> None:
    with sent_tasks.held():
        await web.count("south")
    (message,) = sent_tasks
    assert message.task_name == tasks.read_station.task_name
    assert message.args == ["south"]
