"""What the signatures of Celery's own ask of an app, where a module has them from ``celery``.

``celery.chain`` of tasks of this package makes a chain of this package's. ``celery.group`` and
``celery.chord`` are Celery's own: they give each task its id, and send it by its own method. What
they need beyond that is here. ``dagster_celery.canvas`` has the same names, without Celery.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NoReturn

from dagster_celery._celery_app.absent import absent
from dagster_celery._celery_app.current_app import SendingApp
from dagster_celery._celery_app.preparing import HEADER_IDS, watch
from dagster_taskiq.errors import ConfigError

_NESTED = (
    "A chord of Celery's own cannot have another chord in its header here. Write "
    "`from dagster_celery.canvas import chain, chord, group`."
)


def check_chord(options: Mapping[str, Any]) -> None:
    """Check that the chord which a call is a part of can be completed.

    Raises:
        ConfigError: nothing leads from it to the other tasks of its header.
    """
    chord = options.get("chord")
    if chord and "size" not in chord and HEADER_IDS not in chord.get("options", ()):
        raise ConfigError(_NESTED)


def producer_or_acquire(producer: Any = None) -> AbstractContextManager[Any]:
    """Return what Celery's group enters to send its tasks (Celery's own method of an app)."""
    return nullcontext(producer)


class Backend:
    """What Celery's chord, and a ``celery.result.AsyncResult``, ask of their app's backend."""

    #: Whether all threads may use one of them (Celery's attribute).
    thread_safe = True
    #: The states of tasks that have ended, and of those that have failed (Celery's attributes).
    READY_STATES = frozenset({"SUCCESS", "FAILURE", "REVOKED", "IGNORED", "REJECTED"})
    PROPAGATE_STATES = EXCEPTION_STATES = frozenset({"FAILURE", "REVOKED"})

    def __init__(self, app: SendingApp) -> None:
        self._app = app

    def get_task_meta(self, task_id: str, *_: Any, **__: Any) -> dict[str, Any]:
        """Return the state of a task, as Celery's backends do."""
        found = self._app.AsyncResult(task_id)
        state = found.state
        return {
            "task_id": task_id,
            "status": state,
            "result": found.result,
            "traceback": found.traceback if state == "FAILURE" else None,
        }

    def meta_from_decoded(self, meta: Any) -> Any:
        """Return what :meth:`get_task_meta` has returned."""
        return meta

    def add_pending_result(self, result: Any, *_: Any, **__: Any) -> Any:
        """Return the result: it is looked for when it is asked for."""
        return result

    def remove_pending_result(self, result: Any) -> Any:
        """Return the result, as :meth:`add_pending_result`."""
        return result

    def wait_for_pending(
        self, result: Any, no_ack: bool = True, follow_parents: bool = True, **options: Any
    ) -> Any:
        """Wait for the end of a result of Celery's, and return its value.

        Args:
            result: has the id.
            no_ack: has no effect (Celery's own argument).
            follow_parents: has no effect (Celery's own argument).
            options: as for :meth:`dagster_celery._celery_app.results.AsyncResult.get`.
        """
        del no_ack, follow_parents
        return self._app.AsyncResult(result.id).get(**options)

    def forget(self, task_id: str) -> None:
        """Delete the record of a task that has ended."""
        self._app.AsyncResult(task_id).forget()

    def ensure_chords_allowed(self) -> None:
        """Return: every backend here can keep chords."""

    def set_chord_size(self, *_: Any) -> None:
        """Return: the ids of the header are known."""

    def apply_chord(self, header_result_args: Any, body: Any, **_: Any) -> None:
        """Let the body of a chord follow its header, which is sent after this.

        Args:
            header_result_args: the id of the header, and the results of its tasks.
            body: the signature that follows; what is changed in it is sent with each task.

        Raises:
            ConfigError: a task of the header is the body of another chord, to which Celery gives
                another id when it is sent.
        """
        _, results = header_result_args
        if any(hasattr(getattr(each, "parent", None), "results") for each in results):
            raise ConfigError(_NESTED)
        body["options"][HEADER_IDS] = list(_ids(results))
        watch(self._app, body)

    # Hidden from type checkers: they are to report an attribute that is not here.
    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            raise absent("Celery's backend", name, "Make results by `app.AsyncResult(id)`.")


def _ids(results: Any) -> Iterator[str]:
    for each in results:
        members = getattr(each, "results", None)
        if members is None:
            yield str(each.id)
        else:
            yield from _ids(members)
