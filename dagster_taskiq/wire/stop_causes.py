"""What can have a worker stop a task before its end."""

from enum import Enum


class StopCause(str, Enum):
    """What has a worker stop a task, which decides whether anything goes on with it."""

    #: The task is not wanted any more: no step is tried again, and no run is resumed.
    CANCELLED = "cancelled"
    #: It has run for longer than it may: a step fails, as its RetryPolicy has it, and a run for
    #: good, as it would take as long again.
    TIME_LIMIT = "time_limit"
    #: Its worker cannot go on with it: a step fails, as its RetryPolicy has it, and another process
    #: may resume a run.
    WORKER = "worker"
