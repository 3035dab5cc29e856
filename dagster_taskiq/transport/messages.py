"""What a message is on its way into a queue, and on its way out of one: plain data.

Brokers of every kind take :class:`Outgoing` and return :class:`Delivery`; a backend takes an
``Outgoing`` where it records in the same step that a task is sent. Nothing here calls anything.
"""

from dataclasses import dataclass

from dagster_taskiq.wire.records import TaskState

#: A message that was delivered this often and never started is rejected: it would loop for ever.
MAX_DELIVERIES = 10


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
    #: The name of the task if it is a user's own; a broker may start it as it is claimed.
    own_task: str = ""
    #: Which attempt of the task the message is for.
    attempt: int = 0


@dataclass(frozen=True)
class Delivery:
    """One message as claimed by one worker, until it is acknowledged or released."""

    #: The broker's own handle of the message.
    handle: str
    task_id: str
    queue: str
    body: bytes
    #: 1 for the first delivery of the message.
    attempt: int
    #: The start of its task was recorded with the claim, for the claiming worker.
    is_started: bool = False
    #: The state that has forbidden that start; there is no message any more.
    refused: TaskState | None = None
