"""Tests of tasks on the app object that dagster-celery has."""

import pytest

from dagster_celery.make_app import make_app

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
