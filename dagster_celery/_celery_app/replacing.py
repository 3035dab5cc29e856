"""A task that has others executed in its place, under its id: ``self.replace()``.

It is put back without a message: the last of the others has its id, and is sent when those before
have ended. That message is for the attempt at which the task waits from then on.
"""

import time
from typing import Any

from dagster_celery._celery_app.current_app import SendingApp
from dagster_celery._celery_app.preparing import leaves, prepare
from dagster_celery._celery_app.request import Request
from dagster_celery._celery_app.signature import Signature, as_list, maybe_signature
from dagster_taskiq.execution.task_context import current_message
from dagster_taskiq.wire.labels import attempt_of
from dagster_taskiq.wire.records import TaskState

#: By this task, the values of a group that stands for one task are its value.
ACCUMULATE = "celery.accumulate"

#: Seconds that a task which is replaced may take to be put back, once the others were sent.
PUT_BACK_SECONDS = 60.0
#: Seconds between two looks whether it is.
LOOK_SECONDS = 0.05


def with_one_end(whole: Signature, app: SendingApp) -> Signature:
    """Return a signature of several tasks so that one of them is the last, and has the value.

    Args:
        whole: the signature; of a group, the list of the values of its tasks is the value.
        app: sends it.
    """
    made: Signature = maybe_signature(whole, app).clone()
    if made.kind == "chunks":
        made = made.group()  # type: ignore[attr-defined] # it is a chunks, which imports preparing
    if made.kind == "group":
        gathering = Signature(ACCUMULATE, app=app)
        chord: Signature = Signature.kinds["chord"](made, gathering, app=app)
        return chord
    if made.kind == "chain" and made.kwargs["tasks"]:
        *first, last = made.kwargs["tasks"]
        made.kwargs["tasks"] = [*first, with_one_end(last, app)]
    elif made.kind == "chord":
        made.kwargs["body"] = with_one_end(made.kwargs["body"], app)
    return made


def in_place_of(request: Request, whole: Signature, app: SendingApp) -> Signature:
    """Return a signature of several tasks, ready to be sent in the place of the task that runs.

    Args:
        request: that of the task.
        whole: the signature, with one end.
        app: sends it.

    Raises:
        ConfigError: a task of a chord's header has an id of its own.
    """
    for errback in request.errbacks or ():
        whole.link_error(maybe_signature(errback, app))
    prepared = prepare(whole, app, {"task_id": request.id})
    last = next(leaves(prepared))
    kept = {name: each for name, each in request.carried.items() if each is not None}
    for name in ("link_error", "root_id", "parent_id"):  # which it has got, or gets
        kept.pop(name, None)
    kept["link"] = [*as_list(last.options.get("link")), *(request.callbacks or ())]
    last.options.update(kept)
    message = current_message()
    if message is not None:  # it has the label of the next attempt
        last.options["attempt"] = attempt_of(message.labels)
    return prepared


def until_put_back(app: SendingApp, task_id: str, attempt: int) -> None:
    """Wait until a task that is replaced has been put back by its worker, for a limited time.

    Args:
        app: the app.
        task_id: the task.
        attempt: the one at which it waits then.
    """
    deadline = time.monotonic() + PUT_BACK_SECONDS
    while time.monotonic() < deadline:
        known: Any = app.client.tasks([task_id]).get(task_id)
        if known is None or known.state is not TaskState.STARTED or known.attempt >= attempt:
            return
        time.sleep(LOOK_SECONDS)
