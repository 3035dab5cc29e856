"""The event about a step that could not be sent."""

import sys
from collections.abc import Callable, Iterator

from dagster import DagsterEvent
from dagster._core.events import EngineEventData
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._utils.error import serializable_error_info_from_exc_info

#: The text of the event, as dagster-celery has it.
TEXT = "Encountered error during celery task submission."


def with_submission_error(
    context: PlanOrchestrationContext,
    events: Iterator[DagsterEvent],
    is_of_sending: Callable[[Exception], bool],
) -> Iterator[DagsterEvent]:
    """Add the event about a step that could not be sent to the events of its run.

    Args:
        context: Dagster's context of the run.
        events: the run's events.
        is_of_sending: whether an error that ``events`` raises is that of sending a step.

    Yields:
        The same events; before such an error is raised, one about it, which is logged as well.

    Raises:
        Exception: what ``events`` raises.
    """
    try:
        yield from events
    except Exception as error:
        if is_of_sending(error):
            info = serializable_error_info_from_exc_info(sys.exc_info())
            data = EngineEventData.engine_error(info)
            yield DagsterEvent.engine_event(context, TEXT, event_specific_data=data)
        raise
