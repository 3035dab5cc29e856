"""What follows a task that has ended: its callbacks, the rest of its chain, the body of its chord.

The next tasks are sent before the task is recorded as a success, as Celery does: if the process
dies in between, the work goes on, and the waiter for its end gets it. What is sent has an id that
was given before, so that sending it twice executes it once.
"""

import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dagster_celery._celery_app.celery_errors import as_celerys
from dagster_celery._celery_app.current_app import SendingApp
from dagster_celery._celery_app.preparing import HEADER_IDS, body_of, header_ids, made_ready, send
from dagster_celery._celery_app.replacing import until_put_back
from dagster_celery._celery_app.request import Request
from dagster_celery._celery_app.signature import Signature, maybe_signature
from dagster_celery._celery_app.task_errors import ChordError
from dagster_celery._celery_app.values import from_result
from dagster_taskiq.transport.results import failure
from dagster_taskiq.wire.records import TaskState

#: The states of a task that has ended without a value.
_FAILED = (TaskState.FAILURE, TaskState.REVOKED, TaskState.LOST)

logger = logging.getLogger("dagster_celery")


def follow(app: SendingApp, request: Request, value: Any) -> None:
    """Send the callbacks of a task that has succeeded, and the next task of its chain.

    Args:
        app: sends them.
        request: the task's.
        value: the task's value.

    Raises:
        TypeError: JSON cannot hold the value.
        ServerUnavailableError: the broker does not answer; some of them may have been sent.
    """
    carried: dict[str, Any] = {"parent_id": request.id, "root_id": request.root_id}
    for each in request.callbacks or ():
        callback = maybe_signature(each, app)
        callback.apply_async((value,), **carried)
    if request.chain:
        *rest, following = request.chain
        send(made_ready(following, rest, app), (value,), **carried)


def fail_rest(app: SendingApp, request: Request, error: BaseException) -> None:
    """Call the errbacks of a task that has failed, and let all end that would have followed it.

    Args:
        app: the app.
        request: the task's.
        error: why it has failed.
    """
    _call_errbacks(app, request, error)
    for each in reversed(request.chain or ()):
        _fail(app, maybe_signature(each, app), error)
    if request.chord:
        _fail_chord(app, body_of(request.chord), str(request.id), error)


def look_at_chord(app: SendingApp, chord: Mapping[str, Any]) -> bool:
    """Send the body of a chord if the tasks of its header have succeeded; fail it if one failed.

    Args:
        app: the app.
        chord: as the message of a task of its header carries it.

    Returns:
        Whether there is nothing more to be looked for.
    """
    body = maybe_signature(body_of(chord), app)
    ids = header_ids(body, chord)
    body.options.pop(HEADER_IDS, None)
    for part in _last_first(ids):
        known = app.client.tasks(part)
        failed = [each for each in known.values() if each.state in _FAILED]
        if failed:
            result = app.client.result(failed[0].id)
            error = None if result is None else result.error
            _fail_chord(app, body, failed[0].id, error or RuntimeError(failed[0].error))
            return True
        if len(known) < len(part) or not all(each.state.is_final for each in known.values()):
            return False
    values = []
    for each in ids:
        result = app.client.result(each)
        if result is None:
            return False
        values.append(from_result(result.return_value))
    send(body, (values,), parent_id=ids[-1] if ids else None)
    return True


def give_up_chord(app: SendingApp, chord: Mapping[str, Any]) -> None:
    """Fail the body of a chord whose header has not ended in a month, if it has not been sent."""
    body = maybe_signature(body_of(chord), app)
    error = as_celerys(ChordError("The tasks of its header have not ended in a month."))
    _fail(app, body, error, calls_errbacks=True)


def _last_first(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield ids in parts: those of the tasks sent last first, and few of them.

    They are the last to end. So not every task of a large header reads the records of all.
    """
    end, size = len(ids), 1
    while end > 0:
        yield ids[max(0, end - size) : end]
        end, size = end - size, size * 2


def _fail_chord(app: SendingApp, body: Any, task_id: str, error: BaseException) -> None:
    problem = as_celerys(ChordError(f"Dependency {task_id} raised {error!r}"))
    problem.__cause__ = error
    _fail(app, maybe_signature(body, app), problem, calls_errbacks=True)


def _fail(
    app: SendingApp, prepared: Signature, error: BaseException, calls_errbacks: bool = False
) -> None:
    """Record that what was never sent has failed, so that nothing waits for it."""
    parts = prepared.kwargs
    if prepared.kind == "chain":
        for index, each in enumerate(parts["tasks"]):
            _fail(app, each, error, calls_errbacks and not index)
    elif prepared.kind == "group":
        for each in parts["tasks"]:
            _fail(app, maybe_signature(each, app), error, calls_errbacks)
    elif prepared.kind == "chord":
        _fail(app, maybe_signature(parts["header"], app), error)
        _fail(app, maybe_signature(parts["body"], app), error, calls_errbacks)
    elif prepared.id is not None and app.client.result(prepared.id) is None:
        request = Request.of_call(
            prepared.id, prepared.name, prepared.args, prepared.kwargs, prepared.options
        )
        attempt = prepared.options.get("attempt")
        if attempt:
            until_put_back(app, prepared.id, attempt)
        app.client.set_result(prepared.id, failure(error))
        if calls_errbacks:
            _call_errbacks(app, request, error)
        for each in reversed(request.chain or ()):
            _fail(app, maybe_signature(each, app), error)
        if request.chord:
            _fail_chord(app, body_of(request.chord), prepared.id, error)


def _call_errbacks(app: SendingApp, request: Request, error: BaseException) -> None:
    for each in request.errbacks or ():
        errback = maybe_signature(each, app)
        task = errback.type
        try:
            if task is not None and not task.is_bound and _takes_more_than_one(errback):
                errback(request, error, error.__traceback__)
            else:
                errback.apply_async((request.id,), parent_id=request.id, root_id=request.root_id)
        except Exception:
            logger.exception("The errback %s of task %s raised an error.", errback.name, request.id)


def _takes_more_than_one(errback: Signature) -> bool:
    """Return whether a failure may be given to an errback's function as three arguments."""
    task = errback.type
    if task is None:
        return False
    given = (1, 2, 3)
    try:
        inspect.signature(task.run).bind(*errback.merged(given)[0], **errback.kwargs)
    except TypeError:
        return False
    return not errback.immutable
