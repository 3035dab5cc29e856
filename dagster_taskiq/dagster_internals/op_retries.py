"""Whether an op that is stopped asks for a retry, in the children of a worker.

Replaces: ``core_dagster_event_sequence_for_step``, as ``dagster._core.execution.plan.execute_plan``
calls it.

Why: to Dagster an interrupt is an error of the op like any other, and where the op has a
RetryPolicy it asks to be run again (``op_execution_error_boundary``). So does an op that makes an
error of its own of the interrupt. Where steps run in the process of their run, the op is then
started again in a process that is being stopped, and is killed in the middle of it. A step that
somebody has cancelled would wait for a retry that never comes.

Checked before: the function is a generator of one parameter, ``step_context``.

Otherwise: Dagster's own way, and the log says so.
"""

import inspect
import logging
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import wrapt
from dagster import DagsterEvent, RetryRequested
from dagster._core.errors import DagsterExecutionInterruptedError

logger = logging.getLogger("dagster_taskiq.dagster_internals")

_MODULE = "dagster._core.execution.plan.execute_plan"
_FUNCTION = "core_dagster_event_sequence_for_step"


def install(why_not: Callable[[bool], str]) -> bool:
    """Let an op of this process ask for a retry only where nothing forbids it, from now on.

    Args:
        why_not: called with whether it would be retried in this process; returns why it must not
            be retried, or nothing.

    Returns:
        Whether that was possible. Where Dagster is not as expected, nothing is changed.
    """
    module: Any = import_module(_MODULE)
    function = getattr(module, _FUNCTION, None)
    if not inspect.isgeneratorfunction(function) or _parameters(function) != ["step_context"]:
        logger.warning(
            "%s.%s of this Dagster is not as expected: an op that is stopped may be started again "
            "by its RetryPolicy before its process ends.",
            _MODULE,
            _FUNCTION,
        )
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

    wrapt.wrap_function_wrapper(module, _FUNCTION, sequence)
    return True


def _parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)
