"""Tests of tasks in the manner of taskiq's documentation, with pytest-asyncio."""

from unittest.mock import AsyncMock, patch

import pytest
from shop_tasks import (
    Gateway,
    add,
    broker,
    charge,
    confirm,
    counting,
    send_mail,
    session,
    store_order,
)
from sqlalchemy.orm import Session
from taskiq.exceptions import SendTaskError
from taskiq.kicker import AsyncKicker

from dagster_taskiq.testing import SentTasks


async def test_a_task_is_executed_as_it_is_sent() -> None:
    sent = await add.kiq(1, 2)
    assert await sent.is_ready()
    result = await sent.wait_result(timeout=0)
    assert result.return_value == 3
    assert not result.is_err


async def test_a_function_is_called_as_a_function() -> None:
    assert await add(1, 2) == 3


async def test_middlewares_are_called_once_each() -> None:
    counting.counts.clear()
    await add.kiq(1, 2)
    assert counting.counts == {"sent": 1, "executed": 1}


class Flaky(Gateway):
    def __init__(self) -> None:
        self.calls = 0

    def charge(self, order: int) -> str:
        self.calls += 1
        if self.calls < 3:
            raise ConnectionError("not yet")
        return f"charged {order}"


async def test_a_task_is_tried_again_until_it_works() -> None:
    gateway = Flaky()
    broker.dependency_overrides[Gateway] = lambda: gateway
    sent = await charge.kiq(7)
    result = await sent.wait_result()
    assert (result.return_value, gateway.calls) == ("charged 7", 3)


async def test_a_task_fails_when_its_retries_are_used_up() -> None:
    sent = await charge.kiq(7)
    result = await sent.wait_result()
    assert isinstance(result.error, ConnectionError)
    with pytest.raises(ConnectionError, match="no network to charge 7"):
        result.raise_for_error()


async def test_no_override_of_another_test_is_left() -> None:
    assert broker.dependency_overrides == {}


async def test_a_session_comes_from_what_the_worker_starts_with() -> None:
    await broker.startup()
    for count in (1, 2):
        sent = await store_order.kiq(count)
        assert (await sent.wait_result()).raise_for_error().return_value == count
    sent = await store_order.kiq(2)
    assert (await sent.wait_result()).is_err  # there is one already
    sent = await store_order.kiq(3)
    assert (await sent.wait_result()).return_value == 3  # that failed alone
    await broker.shutdown()


async def test_what_a_task_needs_is_put_in_by_the_test(sent_tasks: SentTasks) -> None:
    class Nothing:
        def execute(self, *_: object) -> "Nothing":
            return self

        def scalar_one(self) -> int:
            return 99

    broker.dependency_overrides[session] = Nothing
    sent = await store_order.kiq(1)
    assert (await sent.wait_result()).return_value == 99
    assert [each.args for each in sent_tasks] == [[1]]


async def test_a_task_sends_another(sent_tasks: SentTasks) -> None:
    sent = await confirm.kiq(7, "a@example.org")
    assert (await sent.wait_result()).return_value == "order 7 -> a@example.org"
    assert [each.task_name for each in sent_tasks] == [confirm.task_name, send_mail.task_name]
    (mail,) = sent_tasks.of(send_mail)
    assert mail.args == ["a@example.org", "order 7"]


async def test_sending_is_mocked() -> None:
    with patch.object(send_mail, "kiq", AsyncMock()) as kiq:
        kiq.return_value.wait_result.return_value.raise_for_error = lambda: kiq.result
        kiq.result.return_value = "mocked"
        assert await confirm(7, "a@example.org") == "mocked"
    kiq.assert_awaited_once_with("a@example.org", "order 7")


async def test_a_task_that_is_not_there_cannot_be_sent() -> None:
    with pytest.raises(SendTaskError) as caught:
        await AsyncKicker("shop_tasks:gone", broker, {}).kiq()
    assert "no task named 'shop_tasks:gone'" in str(caught.value.__cause__)


async def test_a_context_of_the_tests_own_is_put_in() -> None:
    broker.add_dependency_context({Session: "a session"})
    assert Session in broker.custom_dependency_context


async def test_no_context_of_another_test_is_left() -> None:
    assert Session not in broker.custom_dependency_context
