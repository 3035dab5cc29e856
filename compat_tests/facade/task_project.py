"""Tasks as Celery's users write them, on Celery's own app or on that of ``make_app()``.

With ``ON_CELERY`` in the environment it is Celery's, with the URL in there as broker and backend;
else it is made with the arguments in ``APP_ARGS``.
Each task that is observed notes what it does in a file that it is told.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

app: Any
if "ON_CELERY" in os.environ or "ADOPTED" in os.environ:
    from celery import Celery, chain, chord, chunks, group, signature
    from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded
    from celery.result import result_from_tuple

    if "ON_CELERY" in os.environ:
        url = os.environ["ON_CELERY"]
        app = Celery("control", broker=url, backend=url)
    else:
        from dagster_celery.tasks import create_task

        app = Celery("adopted", **json.loads(os.environ["APP_ARGS"]))
        execute_plan = create_task(app)
else:
    from dagster_celery.make_app import make_app

    if "CELERYS_NAMES" in os.environ:  # as modules have them that were written for Celery
        from celery import chain, chord, chunks, group, signature
        from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded
        from celery.result import result_from_tuple
    else:
        from dagster_celery.canvas import chain, chord, chunks, group, signature
        from dagster_celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded
        from dagster_celery.result import result_from_tuple

    app = make_app(json.loads(os.environ.get("APP_ARGS", "{}")))

__all__ = ["SoftTimeLimitExceeded", "app", "chain", "chord", "chunks", "group", "result_from_tuple"]
__all__ += ["signature"]


def note(path: str, *words: object) -> None:
    with Path(path).open("a") as file:
        file.write(" ".join(map(str, words)) + "\n")


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@app.task
def same(value: Any) -> Any:
    return value


@app.task
def fail(text: str = "no") -> None:
    raise ValueError(text)


@app.task
def write(value: object, path: str) -> object:
    note(path, "wrote", value)
    return value


class Observed(app.Task):  # type: ignore[misc] # a class of an app whose kind is not known
    """A base class with all hooks."""

    abstract = True

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        note(args[0], "before_start", self.name.rpartition(".")[2])

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        note(args[0], "on_success", retval)

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        note(args[0], "on_failure", repr(exc), "raise" in str(einfo))

    def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        note(args[0], "on_retry", repr(exc))

    def after_return(
        self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any
    ) -> None:
        note(args[0], "after_return", status)


@app.task(bind=True, base=Observed, max_retries=2)
def flaky(self: Any, path: str, good_at: int) -> list[Any]:
    """Succeed at a try, with the numbers of tries before it."""
    note(path, "try", self.request.retries, self.request.called_directly)
    try:
        if self.request.retries < good_at:
            raise KeyError("not yet")
    except KeyError as error:
        raise self.retry(exc=error, countdown=0) from error
    return [self.request.retries, self.request.id == self.request.root_id]


@app.task(bind=True, max_retries=1, default_retry_delay=0)
def never_good(self: Any, path: str) -> None:
    note(path, "try", self.request.retries)
    raise self.retry()


@app.task(bind=True)
def with_other_arguments(self: Any, path: str, number: int, other: int = 0) -> list[int]:
    if self.request.retries == 0:
        self.retry(countdown=0, kwargs={"other": 5}, max_retries=1)
    return [number, other]


@app.task(
    bind=True,
    base=Observed,
    autoretry_for=(LookupError,),
    dont_autoretry_for=(KeyError,),
    retry_kwargs={"max_retries": 2, "countdown": 0},
)
def auto(self: Any, path: str, error: str, good_at: int) -> int:
    note(path, "try", self.request.retries)
    if self.request.retries < good_at:
        raise {"index": IndexError, "key": KeyError}[error]("not yet")
    return int(self.request.retries)


@app.task(
    bind=True,
    autoretry_for=(OSError,),
    retry_backoff=1,
    retry_backoff_max=1,
    retry_jitter=False,
    max_retries=1,
)
def backing_off(self: Any, started: float) -> bool:
    """Return whether the second try came a second after the first."""
    if self.request.retries == 0:
        raise OSError("not yet")
    return time.time() - started >= 0.9


@app.task(bind=True)
def ignored(self: Any) -> None:
    self.update_state(state="HALF", meta={"done": 1})
    raise Ignore


@app.task(bind=True, acks_late=True)
def rejected_once(self: Any, path: str) -> str:
    note(path, "try", self.request.retries)
    if len(Path(path).read_text().splitlines()) == 1:
        raise Reject("not here", requeue=True)
    return "taken"


@app.task(bind=True)
def reporting(self: Any, path: str) -> str:
    self.update_state(state="PROGRESS", meta={"done": 3})
    Path(f"{path}.reported").touch()
    while not Path(path).exists():
        time.sleep(0.02)
    return "done"


@app.task(soft_time_limit=1, time_limit=20)
def too_slow(path: str) -> str:
    try:
        time.sleep(15)
    except SoftTimeLimitExceeded:
        note(path, "cleaned up")
        return "stopped in time"
    return "slept"


@app.task(soft_time_limit=1, time_limit=20, base=Observed)
def too_slow_and_careless(path: str) -> None:
    time.sleep(15)


@app.task(ignore_result=True)
def without_result() -> str:
    return "nobody wants it"


@app.task(bind=True)
def about(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    request = self.request
    headers = dict(request.headers or {})
    return {
        "args": list(request.args),
        "kwargs": dict(request.kwargs),
        "retries": request.retries,
        "is_eager": request.is_eager,
        "header": headers.get("mine"),
        "has_eta": request.eta is not None,
        "has_expires": request.expires is not None,
        "limits": list(request.timelimit or (None, None)),
        "group": request.group is not None,
        "task": self.name,
        "parent": request.parent_id is not None,
        "chain": len(request.chain or ()),
        "callbacks": len(request.callbacks or ()),
        "errbacks": len(request.errbacks or ()),
    }


@app.task
def on_error_three(request: Any, exc: Any, traceback: Any, path: str) -> None:
    note(path, "errback", request.id is not None, repr(exc))


@app.task
def on_error_one(task_id: str, path: str) -> None:
    note(path, "errback", isinstance(task_id, str))


@app.task(bind=True)
def replaced(self: Any, number: int) -> None:
    raise self.replace(add.s(number, 100))


@app.task(bind=True)
def replaced_by(self: Any, kind: str, number: int = 1) -> None:
    """Have several tasks executed in the place of this one."""
    raise self.replace(
        {
            "chain": lambda: chain(add.s(number, 1), add.s(2)),
            "group": lambda: group(add.s(number, 1), add.s(number, 2)),
            "chord": lambda: chord([add.s(number, 1), add.s(2, 2)], total.s()),
            "chain of a group": lambda: chain(add.s(number, 1), group(add.s(1), add.s(2))),
            "chain that fails": lambda: chain(add.s(number, 1), fail.si("middle"), add.s(1)),
            "chord that fails": lambda: chord([add.s(1, 1), fail.si("header")], total.s()),
            "another": lambda: chain(add.s(number, 1), replaced_by.si("chain", 5)),
        }[kind]()
    )


@app.task(bind=True)
def ending(self: Any, state: str, meta: Any, is_error: bool = False) -> None:
    """End in a state of its own."""
    self.update_state(state=state, meta=ValueError(meta) if is_error else meta)
    raise Ignore


@app.task
def sending(numbers: list[int]) -> Any:
    """Send a chain from inside a task, and return the id of its result."""
    return chain(add.s(*numbers), add.s(1)).apply_async().id


@app.task
def die() -> None:
    os._exit(3)


@app.task
def leave() -> None:
    raise SystemExit(3)


@app.task
def waiting() -> list[int]:
    """Wait for others in this task, which Celery refuses."""
    one = chain(add.s(1, 2), add.s(3)).apply_async().get(timeout=30)
    values = group(add.s(1, 1), add.s(2, 2)).apply_async().get(timeout=30)
    body = chord([add.s(1, 1), add.s(5, 5)])(total.s()).get(timeout=30)
    return [one, sum(values), body]


@app.task
def retry_of_its_own() -> None:
    raise Retry("not by self.retry()")


class Counting(app.Task):  # type: ignore[misc] # as above
    name = "class-based"
    max_retries = 7

    def run(self, number: int) -> list[int]:
        return [number + 1, self.max_retries]


counting = app.register_task(Counting())


class Wrapping(app.Task):  # type: ignore[misc] # as above
    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return ["wrapped", super().__call__(*args, **kwargs)]


@app.task(base=Wrapping, bind=True)
def wrapped(self: Any, number: int) -> list[Any]:
    return [number, self.request.called_directly]
