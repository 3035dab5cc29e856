"""When the children of a worker are interrupted by a signal.

Replaces: ``dagster._utils.interrupts.setup_interrupt_handlers``. Dagster calls it at the beginning
and at the end of everything that a signal may interrupt, to have SIGTERM do what SIGINT does then.

Why: a child is interrupted when its parent says so, not by a signal that a service manager or a
terminal sends to every process of the worker. This is the one place where all of Dagster's handlers
can be given that condition.

Checked before: the function is there, and takes no arguments.

Otherwise: every signal interrupts, also one that is not the parent's, and the log says so.
"""

import inspect
import logging
import signal
from collections.abc import Callable
from importlib import import_module
from types import FrameType
from typing import Any

import wrapt

logger = logging.getLogger("dagster_taskiq.dagster_internals")

_MODULE = "dagster._utils.interrupts"
_FUNCTION = "setup_interrupt_handlers"

#: What is done about a signal.
Handler = Callable[[int, FrameType | None], object]


class Conditional:
    """A handler that is called under a condition; known by its class, so that it is made once."""

    def __init__(self, handler: Handler, condition: Callable[[int], bool]) -> None:
        self._handler = handler
        self._condition = condition

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal (Python's own hook)."""
        if self._condition(number):
            self._handler(number, frame)


def install(condition: Callable[[int], bool]) -> bool:
    """Let SIGTERM and SIGINT interrupt this process only where ``condition`` says so, from now on.

    Args:
        condition: called in the signal's handler with its number; whether to obey it.

    Returns:
        Whether that was possible. Where Dagster is not as expected, every signal interrupts.
    """
    module: Any = import_module(_MODULE)
    function = getattr(module, _FUNCTION, None)
    if not callable(function) or inspect.signature(function).parameters:
        logger.warning(
            "%s.%s of this Dagster is not as expected: signals that are sent to all processes of "
            "a worker stop its tasks, also while it drains.",
            _MODULE,
            _FUNCTION,
        )
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
        return False

    def setup(wrapped: Callable[[], None], _instance: Any, _args: Any, _kwargs: Any) -> None:
        handler = signal.getsignal(signal.SIGINT)
        if callable(handler) and not isinstance(handler, Conditional):
            signal.signal(signal.SIGINT, Conditional(handler, condition))
        wrapped()

    wrapt.wrap_function_wrapper(module, _FUNCTION, setup)
    getattr(module, _FUNCTION)()
    return True
