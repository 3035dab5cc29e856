"""Tests of tasks on the app object that dagster-celery has."""

from datetime import date
from typing import Any

import pytest

from dagster_celery.canvas import chain, group
from dagster_celery.make_app import make_app
from dagster_taskiq.testing import SentTasks

app = make_app()


@app.task(name="divide")
def divide(a: int, b: int) -> float:
    return a / b


def test_a_task_runs_where_it_is_sent() -> None:
    assert divide.delay(6, 2).get(timeout=10) == 3
    assert divide.apply_async((6, 3), countdown=3600).get(timeout=10) == 2


def test_a_task_that_fails_raises_where_its_result_is_read() -> None:
    failed = divide.delay(1, 0)
    assert failed.failed()
    with pytest.raises(ZeroDivisionError):
        failed.get(timeout=10)


@app.task(name="due", bind=True, max_retries=1)
def due(self: Any, day: date) -> str:
    if self.request.retries == 0:
        self.retry(countdown=60)
    return divide.apply((day.year, 2)).state


def test_what_is_sent_is_seen(sent_tasks: SentTasks) -> None:
    divide.apply_async((6, 3), queue="numbers")
    app.send_task("divide", (8,), {"b": 2})
    app.send_task("elsewhere", (1,))
    assert divide.apply((1, 1)).get() == divide(1, 1) == 1
    assert [each.args for each in sent_tasks.of(divide)] == [[6, 3], [8]]
    assert [each.labels["queue_name"] for each in sent_tasks] == ["numbers", "dagster", "dagster"]
    assert sent_tasks[2].task_name == "elsewhere"


def test_a_task_that_is_tried_again_is_sent_once(sent_tasks: SentTasks) -> None:
    assert due.delay(date(2026, 1, 2)).get() == "SUCCESS"
    (sent,) = sent_tasks
    assert sent.args == [date(2026, 1, 2)]


def test_all_tasks_of_a_chain_are_seen(sent_tasks: SentTasks) -> None:
    assert chain(divide.s(8, 2), group(divide.s(2), divide.s(4))).delay().get() == [2, 1]
    assert [each.args for each in sent_tasks.of(divide)] == [[8, 2], [4, 2], [4, 4]]


def test_what_is_held_is_sent_and_not_executed(sent_tasks: SentTasks) -> None:
    with sent_tasks.held():
        result = divide.delay(1, 0)
        chain(divide.s(8, 2), divide.s(2)).delay()
        assert (result.state, result.ready()) == ("PENDING", False)
    assert [each.args for each in sent_tasks.of(divide)] == [[1, 0], [8, 2]]
