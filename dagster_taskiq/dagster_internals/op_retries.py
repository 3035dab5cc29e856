"""Whether an op that is stopped asks for a retry, in the children of a worker."""

import inspect
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import wrapt
from dagster import DagsterEvent, RetryRequested
from dagster._core.errors import DagsterExecutionInterruptedError

from dagster_taskiq.dagster_internals.part import DagsterPart

_MODULE = "dagster._core.execution.plan.execute_plan"
_FUNCTION = "core_dagster_event_sequence_for_step"


def _check() -> str:
    function = getattr(import_module(_MODULE), _FUNCTION)
    if not inspect.isgeneratorfunction(function):
        return "it is no generator function"
    parameters = list(inspect.signature(function).parameters)
    return "" if parameters == ["step_context"] else f"it has the parameters {parameters}"


PART = DagsterPart(
    name="retries of stopped ops",
    touches=f"{_MODULE}.{_FUNCTION} (wrapped)",
    why=(
        "To Dagster an interrupt is an error of the op like any other, and if the op has a "
        "RetryPolicy it asks to be run again (op_execution_error_boundary). So does an op that "
        "makes an error of its own of the interrupt. If steps run in the process of their run, "
        "the op would be started again in a process that is being stopped, and killed in the "
        "middle of it. A cancelled step would wait for a retry that never comes."
    ),
    otherwise="An op that is stopped may be started again by its RetryPolicy.",
    check=_check,
)


def install(why_not: Callable[[bool], str]) -> bool:
    """Let an op of this process ask for a retry only if nothing forbids it, from now on.

    Args:
        why_not: called with whether it would be retried in this process; returns why it must not
            be retried, or nothing.

    Returns:
        Whether Dagster is as expected; otherwise nothing is changed.
    """
    if PART.find_problem():
        return False

    def sequence(
        wrapped: Callable[[Any], Iterator[DagsterEvent]],
        _instance: Any,
        args: tuple[Any],
        _kwargs: Any,
    ) -> Iterator[DagsterEvent]:
        (step_context,) = args
        try:
            yield from wrapped(step_context)
            return
        except RetryRequested as request:
            reason = why_not(step_context.retry_mode.enabled)
            if not reason:
                raise
            cause = request.__cause__ or request
        # Dagster ends the step at this, and all that its process executes.
        raise DagsterExecutionInterruptedError(f"It is not retried: {reason}.") from cause

    wrapt.wrap_function_wrapper(import_module(_MODULE), _FUNCTION, sequence)
    return True
