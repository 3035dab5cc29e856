"""What a task raises to be executed again, or to end in another way than by a value or an error.

Where Celery is imported, each of them that is raised here is also of Celery's class of that name
(:mod:`dagster_celery._celery_app.celery_errors`), and Celery's own are understood as well.
"""

from datetime import datetime
from typing import Any

from dagster_taskiq.errors import TimeLimitError


class Ignore(Exception):
    """Raised by a task that has no result: its state is what it has set itself, or IGNORED."""


class Replaced(Ignore):
    """Raised by ``self.replace()``: another task is executed under the id of this one."""

    def __init__(self, message: str | None = None, sig: Any = None) -> None:
        """Make the exception.

        Args:
            message: its text.
            sig: the call that is made in this process; ``None`` if it has been sent.
        """
        super().__init__(message)
        self.sig = sig


class Reject(Exception):
    """Raised by a task that cannot be done here, or not now."""

    def __init__(self, reason: Any = None, requeue: bool = False) -> None:
        """Reject the task.

        Args:
            reason: why.
            requeue: whether it goes back to its queue; only if it has ``acks_late``, as in Celery.
        """
        super().__init__(reason, requeue)
        self.reason = reason
        self.requeue = requeue


class Retry(Exception):
    """Raised by ``self.retry()``: the task is to be executed again."""

    def __init__(
        self,
        message: str | None = None,
        exc: BaseException | None = None,
        when: float | datetime | None = None,
        is_eager: bool = False,
        sig: Any = None,
    ) -> None:
        """Make the exception.

        Args:
            message: its text; ``None`` for one that is made of the others.
            exc: why the task is executed again.
            when: in how many seconds, or at which time.
            is_eager: whether the task is executed in the process that called it.
            sig: the call that is made again; ``None`` unless it is eager.
        """
        super().__init__(message, exc, when)
        self.message = message
        self.exc = exc
        self.excs = None if exc is None else repr(exc)
        self.when = when
        self.is_eager = is_eager
        self.sig = sig
        #: Whether the task has been sent again; not by an exception that a task makes itself.
        self.is_sent = False

    def __str__(self) -> str:
        if self.message:
            return self.message
        when = f"in {self.when}s" if isinstance(self.when, int | float) else f"at {self.when}"
        return f"Retry {when}: {self.excs}" if self.excs else f"Retry {when}"


class MaxRetriesExceededError(Exception):
    """A task was to be executed again more often than its ``max_retries`` allow."""

    def __init__(self, *args: Any, task_args: Any = (), task_kwargs: Any = None) -> None:
        super().__init__(*args)
        self.task_args = task_args
        self.task_kwargs = task_kwargs or {}


class SoftTimeLimitExceeded(Exception):
    """Raised in a task that has run for its ``soft_time_limit``."""


class SoftTimeLimitError(TimeLimitError, SoftTimeLimitExceeded):
    """The result of a task that was stopped at its ``soft_time_limit``."""


class ChordError(Exception):
    """A task of the header of a chord has failed, so that its body is not executed."""
