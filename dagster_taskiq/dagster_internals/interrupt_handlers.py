"""Which signals interrupt the children of a worker: those that the parent has requested."""

import inspect
import signal
from collections.abc import Callable
from importlib import import_module
from types import FrameType
from typing import Any

import wrapt

from dagster_taskiq.dagster_internals.part import DagsterPart

_MODULE = "dagster._utils.interrupts"
_FUNCTION = "setup_interrupt_handlers"

#: What is done about a signal.
Handler = Callable[[int, FrameType | None], object]


def _check() -> str:
    parameters = list(inspect.signature(getattr(import_module(_MODULE), _FUNCTION)).parameters)
    return f"it has the parameters {parameters}" if parameters else ""


PART = DagsterPart(
    name="interrupt handlers",
    touches=f"{_MODULE}.{_FUNCTION} (wrapped)",
    why=(
        "Dagster calls it at the beginning and end of everything that a signal may interrupt, to "
        "handle SIGTERM like SIGINT. A child is interrupted when its parent requests it, and not "
        "by a signal that a service manager or terminal sends to every process of the worker. "
        "This is the one place in which all of Dagster's handlers can get that condition."
    ),
    otherwise=(
        "Signals that are sent to all processes of a worker stop its tasks, also while it drains."
    ),
    check=_check,
)


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
    """Let SIGTERM and SIGINT interrupt this process only under a condition, from now on.

    Args:
        condition: called in the signal's handler with its number; whether to obey it.

    Returns:
        Whether Dagster is as expected; otherwise every signal interrupts.
    """
    if PART.find_problem():
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
        return False

    def setup(wrapped: Callable[[], None], _instance: Any, _args: Any, _kwargs: Any) -> None:
        handler = signal.getsignal(signal.SIGINT)
        if callable(handler) and not isinstance(handler, Conditional):
            signal.signal(signal.SIGINT, Conditional(handler, condition))
        wrapped()

    module = import_module(_MODULE)
    wrapt.wrap_function_wrapper(module, _FUNCTION, setup)
    getattr(module, _FUNCTION)()
    return True
