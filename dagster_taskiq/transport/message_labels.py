"""What the labels of a taskiq message say of its way: to which queue, how urgent, and when.

:meth:`QueueBroker.outgoing <dagster_taskiq.transport.broker.QueueBroker.outgoing>` calls this for
each message that is sent.
"""

from taskiq import BrokerMessage

from dagster_taskiq.errors import ConfigError
from dagster_taskiq.tags import PRIORITY_TAG, RUN_PRIORITY_TAG
from dagster_taskiq.transport.messages import Outgoing
from dagster_taskiq.wire.labels import (
    DELAY_LABEL,
    PRIORITY_LABEL,
    QUEUE_LABEL,
    STEP_LABEL,
    attempt_of,
    check_times,
    read_time,
)
from dagster_taskiq.wire.queues import RUNS_SUFFIX, is_run_queue, queue_of_run_queue
from dagster_taskiq.wire.task_names import is_own_task


def outgoing_of(message: BrokerMessage, default_queue: str) -> Outgoing:
    """Return a message as it is put into its queue.

    Args:
        message: as taskiq sends it.
        default_queue: the queue of a message whose labels name none.

    Raises:
        ConfigError: a priority is not an integer, or a label of :mod:`dagster_taskiq.wire.labels`
            is not a time; or the queue is one for launched runs, and this is a step or a user's
            own task.
    """
    check_times(message.labels)
    priority = message.labels.get(PRIORITY_LABEL) or 0
    try:
        level = int(priority)
        if level != float(priority):
            raise ValueError(priority)
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(
            f'The label "{PRIORITY_LABEL}" of task {message.task_name} must be an integer, '
            f"but it is {priority!r}. Higher runs first, 0 is that of a task without the "
            "label, and negative numbers are allowed. (A step or run of Dagster has the tag "
            f'"{PRIORITY_TAG}" or "{RUN_PRIORITY_TAG}" for it.)'
        ) from None
    queue = str(message.labels.get(QUEUE_LABEL) or default_queue)
    is_own = is_own_task(message.task_name, message.labels)
    if is_run_queue(queue) and (is_own or message.labels.get(STEP_LABEL)):
        # There it would be taken for a run: it would have none of the slots that are for steps.
        raise ConfigError(
            f"Task {message.task_name} cannot wait in the queue {queue!r}: names that end in "
            f"{RUNS_SUFFIX!r} are those of queues for launched runs. Name the queue "
            f"{queue_of_run_queue(queue)!r}, or another one."
        )
    delay = read_time(message.labels, DELAY_LABEL)
    own_task = message.task_name if is_own else ""
    attempt = attempt_of(message.labels)
    return Outgoing(message.task_id, queue, level, message.message, delay, own_task, attempt)
