"""asyncio's event loop of the main thread."""

import asyncio


class EventLoopPolicy:
    """The event loop policy, and with it the current event loop.

    A task that ends with a closed loop as the current one, or with none (``asyncio.run``), leaves a
    policy in which ``asyncio.get_event_loop()`` fails. A new policy makes a loop when it is asked.
    """

    name = "asyncio's event loop policy"
    of_thread = False

    def read(self) -> asyncio.AbstractEventLoopPolicy:
        """Return the policy."""
        return asyncio.get_event_loop_policy()

    def restore(self, wanted: asyncio.AbstractEventLoopPolicy) -> None:
        """Set a new policy of the same kind."""
        is_default = type(wanted) is asyncio.DefaultEventLoopPolicy
        asyncio.set_event_loop_policy(None if is_default else type(wanted)())
