"""What a message is on its way into a queue, and on its way out of one: plain data.

Brokers of every kind take :class:`Outgoing` and return :class:`Delivery`; a backend takes an
``Outgoing`` where it records in the same step that a task is sent. Nothing here calls anything.
"""

from dataclasses import dataclass

from dagster_taskiq.wire.records import TaskState

#: A message that was delivered this often and never started is rejected: it would loop for ever.
MAX_DELIVERIES = 10

#: Why a task ends that was started with its claim, and is given back, when there is no message.
NO_MESSAGE = "Its message was lost before it began."


@dataclass(frozen=True)
class Outgoing:
    """One message to be put into a queue."""

    task_id: str
    #: The queue, or run queue.
    queue: str
    #: Higher first.
    priority: int
    body: bytes
    #: Seconds for which it cannot be claimed, by the server's clock. Meanwhile it counts as
    #: waiting, and can be discarded.
    delay: float = 0.0
    #: The name of the task if it is a user's own. Only a broker that may start it as it is claimed
    #: (``MessageQueues.may_start_with_claim``) keeps this and ``attempt``.
    own_task: str = ""
    #: Which attempt of the task the message is for. It is not that of its :class:`Delivery`.
    attempt: int = 0


@dataclass(frozen=True)
class Delivery:
    """One message as claimed by one worker, until it is acknowledged or released."""

    #: The broker's own handle of the message.
    handle: str
    task_id: str
    queue: str
    body: bytes
    #: How often the message was delivered, with this time, and without those after which it was
    #: released: 1 for the first delivery. The broker counts it, and has it from no sender.
    attempt: int
    #: The start of its task was recorded with the claim, for the claiming worker.
    is_started: bool = False
    #: The state that has forbidden that start; there is no message any more.
    refused: TaskState | None = None
