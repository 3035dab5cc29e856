"""Every error that this package raises; each names a situation with a remedy of its own."""

from dagster_shared.error import DagsterError


class DagsterTaskiqError(DagsterError):
    """Base of all errors raised here; a ``DagsterError``, so that Dagster shows it as its own."""


class ConfigError(DagsterTaskiqError):
    """A setting is wrong: an unknown URL scheme, a bad number, a missing variable. Change it."""


class MissingExtraError(ConfigError):
    """The URL is right, but the package that serves it is not installed. Run the pip line."""


class ServerUnavailableError(DagsterTaskiqError):
    """The broker or backend cannot serve now: it is down, cut off, frozen, full or starting.

    Trying again later may help. The text has the server's URL, without its password, and what to
    check; ``problem`` is what went wrong alone.
    """

    def __init__(self, text: str, problem: str = "") -> None:
        super().__init__(text)
        self.problem = problem or text


class ForkedProcessError(DagsterTaskiqError):
    """The connection of a broker was opened before this process was forked. Close it before."""


class TaskRevokedError(DagsterTaskiqError):
    """The task was cancelled, before it started or while it ran. The text says by whom or why."""


class TaskHandedOverError(TaskRevokedError):
    """The process of a run was ended, as its worker is to end; another worker goes on with it.

    Nothing is to be done.
    """


class TaskCutShortError(TaskRevokedError):
    """The task was cancelled and could not report that itself: it was killed, or never began.

    If it needs longer to end well, give it more time (``--kill-grace``).
    """


class ChildDiedError(DagsterTaskiqError):
    """The process that ran the task died: a signal, ``os._exit``, out of memory.

    The text has the signal or exit code. Give it more memory or fewer slots, or find what ended it.
    """


class ChildStartError(DagsterTaskiqError):
    """A new child process of a worker ended before it could run a task. Read the worker's log."""


class TimeLimitError(DagsterTaskiqError, TimeoutError):
    """The task ran longer than it may. Give it more time, or less to do."""


class WorkerLostError(DagsterTaskiqError):
    """The worker that ran the task sends no heartbeats any more; or the process of a step died.

    The text says which. Look at that host; a ``RetryPolicy``, or ``worker_lost: retry``, tries the
    step again.
    """


class NoRecordError(DagsterTaskiqError):
    """The backend knows nothing of a task that was recorded. See that its server keeps its data."""

    @classmethod
    def of(cls, task_id: str) -> "NoRecordError":
        """Return the error for one task."""
        return cls(f"The backend knows nothing of task {task_id}: its record has been lost.")


class NotPutBackYetError(DagsterTaskiqError):
    """The message is for a later attempt than the one that the record shows as STARTED.

    The worker of that attempt has sent it, and not yet recorded that the task waits again. Try
    again later, and leave the message in its queue until then.
    """

    @classmethod
    def of(cls, task_id: str) -> "NotPutBackYetError":
        """Return the error for one task."""
        return cls(f"The worker that runs task {task_id} has sent it again and still owns it.")


class UnknownTaskError(DagsterTaskiqError):
    """The worker has no task of that name. Start it with ``--include`` naming the module."""


class OtherReleaseError(DagsterTaskiqError):
    """The message was sent by a release that this worker does not understand. Upgrade one."""


class CodeLoadError(DagsterTaskiqError):
    """A worker cannot load the code of a task. Deploy it there, or correct it."""


class NotAllowedError(DagsterTaskiqError):
    """A message names code that the worker's operator has not allowed. Allow it, or look who
    sent that.
    """


class NoInstanceError(DagsterTaskiqError):
    """A message names no Dagster instance. Send it by the executor or run launcher."""


class RunNotFoundError(DagsterTaskiqError):
    """The run is not in the worker's Dagster instance. Let run and worker use one storage."""


class RunUnfinishedError(DagsterTaskiqError):
    """A run was not executed to its end. Its event log has the reason."""


class StartsOverError(DagsterTaskiqError):
    """A run cannot be resumed, since its executor begins from the start. Re-execute it."""


class PreviousProcessError(DagsterTaskiqError):
    """A run cannot be resumed, since the process that had it before does not end. End that."""


class StepEndMissingError(DagsterTaskiqError):
    """The task of a step has returned, and the step's end is not in the event log.

    Find out whether the log is complete, and whether the worker has the storage of the run.
    """


class ResourceSetUpError(DagsterTaskiqError):
    """A resource of a step could not be set up, and Dagster has written no reason.

    Look into the log of the worker.
    """


class TaskFailedError(DagsterTaskiqError):
    """The task raised; the text is what its process reported. Correct the task."""


class UnusableMessageError(TaskFailedError):
    """The message of a task cannot be used: it is not readable, or a label is no number.

    Correct it where the message is sent.
    """


class MiddlewareError(TaskFailedError):
    """A middleware, or the teardown of a dependency, raised an error: the task's result is lost.

    Correct the middleware; its traceback is in the worker's log.
    """


class ResultLostError(TaskFailedError):
    """The task has succeeded, but its result has expired, or the server has lost it.

    What the task did is done. Read results sooner, or keep them longer (``result_ttl``).
    """


class ResultTimeoutError(DagsterTaskiqError, TimeoutError):
    """The task has not ended in the time for which its result was waited for. It goes on.

    Wait again, or longer.
    """


class ResultUnreadableError(TaskFailedError):
    """What the backend holds as the result of a task was not written by a worker of this package.

    Find out which other program writes to the backend.
    """
