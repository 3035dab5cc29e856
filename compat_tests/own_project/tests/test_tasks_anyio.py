"""The same with anyio."""

import pytest
from shop_tasks import add


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
@pytest.mark.parametrize("b", [2, 3])
async def test_a_task_is_executed_as_it_is_sent(b: int) -> None:
    sent = await add.kiq(1, b)
    assert (await sent.wait_result()).return_value == 1 + b
