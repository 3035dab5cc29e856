"""Tests of synchronous code that sends tasks."""

from unittest.mock import patch

import pytest
import shop_tasks
from shop_tasks import add, broker, charge, send_mail, take_order

from dagster_taskiq.client import call, send
from dagster_taskiq.errors import TaskRevokedError
from dagster_taskiq.testing import SentTasks


def test_a_call_returns_what_the_task_returns() -> None:
    assert call(add, 1, 2) == 3
    sent = send(add, 3, 4)
    assert sent.is_ready()
    assert sent.result(timeout=0) == 7


def test_a_call_raises_what_the_task_raises() -> None:
    with pytest.raises(ConnectionError):
        call(charge, 7)


def test_what_was_sent_is_seen(sent_tasks: SentTasks) -> None:
    take_order(7, "a@example.org")
    assert [each.args for each in sent_tasks.of(charge)] == [[7]]
    (mail,) = sent_tasks.of(send_mail)
    assert (mail.args, mail.kwargs) == (["a@example.org"], {"subject": "thanks"})
    assert (mail.labels["delay"], mail.labels["priority"]) == (60, 5)


def test_nothing_of_another_test_is_seen(sent_tasks: SentTasks) -> None:
    assert len(sent_tasks) == 0


def test_what_is_held_is_sent_and_not_executed(sent_tasks: SentTasks) -> None:
    with sent_tasks.held():
        sent = send(add, 1, 2)
        assert not sent.is_ready()
        sent.cancel("not any more")
    with pytest.raises(TaskRevokedError, match="not any more"):
        sent.result()
    assert len(sent_tasks) == 1
    assert call(add, 1, 2) == 3


def test_sending_is_mocked() -> None:
    with patch.object(shop_tasks, "send") as mocked:
        take_order(7, "a@example.org")
    mocked.assert_any_call(charge, 7)


def test_a_task_of_a_test_is_gone_after_it() -> None:
    @broker.task(task_name="of-this-test")
    def double(number: int) -> int:
        return number * 2

    assert call(double, 2) == 4


def test_a_task_of_another_test_is_gone() -> None:
    assert broker.find_task("of-this-test") is None
