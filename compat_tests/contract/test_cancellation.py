"""A wait that is cancelled ends, at whatever moment of its talk with the server that comes."""

import asyncio

from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.backend import StateBackend
from dagster_taskiq.transport.registry import make
from dagster_taskiq.wire.notifications import FROM_START

#: At which moments of a round trip the cancellation comes, in seconds.
MOMENTS = (0.0, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.004)
ROUNDS = 500
#: How long a cancelled wait may take: the time is only used up by one that goes on for ever.
PATIENCE = 10.0


def test_a_listener_and_a_reader_end_when_they_are_cancelled(settings: Settings) -> None:
    async def scenario() -> None:
        broker = make(settings)
        backend = broker.result_backend
        assert isinstance(backend, StateBackend)
        broker.use_running_loop()
        await broker.startup()
        for round_number in range(ROUNDS):
            listener = broker.listen()
            waits = [
                asyncio.ensure_future(anext(listener)),
                asyncio.ensure_future(backend.collect("nobody", FROM_START, 60)),
            ]
            await asyncio.sleep(MOMENTS[round_number % len(MOMENTS)])
            for wait in waits:
                wait.cancel()
            _, going_on = await asyncio.wait(waits, timeout=PATIENCE)
            assert not going_on, f"round {round_number}"
            # One that had its answer as it was cancelled has ended just as well.
            await asyncio.gather(*waits, return_exceptions=True)
            await listener.aclose()
        await broker.shutdown()

    asyncio.run(scenario())
