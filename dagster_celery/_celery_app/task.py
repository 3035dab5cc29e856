"""Tasks of an app, as ``@app.task`` makes them, and the class that they derive from."""

import inspect
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

from taskiq.depends.progress_tracker import TaskProgress

from dagster_celery._celery_app import in_tests
from dagster_celery._celery_app.absent import absent
from dagster_celery._celery_app.canvas import chunks, xmap, xstarmap
from dagster_celery._celery_app.celery_errors import as_celerys
from dagster_celery._celery_app.current_app import SendingApp, current_app
from dagster_celery._celery_app.execution import called_by_execution, execute_here
from dagster_celery._celery_app.preparing import send
from dagster_celery._celery_app.replacing import in_place_of, with_one_end
from dagster_celery._celery_app.reported_ends import described
from dagster_celery._celery_app.request import Request, current_request, running
from dagster_celery._celery_app.results import AsyncResult, EagerResult
from dagster_celery._celery_app.retrying import next_arguments, raise_in_context
from dagster_celery._celery_app.signature import Signature, maybe_signature
from dagster_celery._celery_app.task_errors import MaxRetriesExceededError, Replaced, Retry
from dagster_celery._celery_app.task_options import (
    LOST,
    OF_A_CALL,
    check_attributes,
    checked,
    warn_of_lost,
)
from dagster_celery._celery_app.values import to_result
from dagster_taskiq.errors import ConfigError, ServerUnavailableError


class Task:
    """A task of an app; as ``app.Task``, the class from which users derive their own.

    Its attributes are its options, with Celery's defaults: what a class that derives from it has as
    attributes, and what the decorator is given, replaces them. ``before_start``, ``on_success``,
    ``on_failure``, ``on_retry`` and ``after_return`` are called around its function, in the process
    that executes it.
    """

    #: The name that it is sent and found by.
    name: str = ""
    #: How often it may be executed again at most; ``None`` for no limit.
    max_retries: int | None = 3
    #: Seconds before it is executed again, unless the retry says otherwise.
    default_retry_delay: float = 180
    #: Errors of its function for which it is executed again, and those for which it is not.
    autoretry_for: Sequence[type[BaseException]] = ()
    dont_autoretry_for: Sequence[type[BaseException]] = ()
    #: Arguments of :meth:`retry` for them.
    retry_kwargs: Mapping[str, Any] = {}
    #: Whether each pause is twice as long as the one before; as a number, seconds of the first one.
    retry_backoff: bool | float = False
    #: The longest pause, in seconds.
    retry_backoff_max: float = 600
    #: Whether each pause is a random part of what it would be.
    retry_jitter: bool = True
    #: Whether its value is dropped; ``None`` for the setting ``task_ignore_result``.
    ignore_result: bool | None = None
    #: Whether ``Reject(requeue=True)`` puts it back; ``None`` for the setting ``task_acks_late``.
    acks_late: bool | None = None
    #: Options of a call, unless that has them.
    expires: float | datetime | None = None
    priority: int | None = None
    queue: str | None = None
    routing_key: str | None = None
    soft_time_limit: float | None = None
    time_limit: float | None = None
    #: Whether the arguments of a call are checked against its function before it is sent.
    typing: bool | None = None
    #: Options of Celery's that change nothing here.
    reject_on_worker_lost: bool | None = None
    rate_limit: str | None = None
    serializer: str | None = "json"
    throws: Sequence[type[BaseException]] = ()
    track_started: bool | None = True
    #: Whether it is a base class, and no task of its own (Celery's attribute).
    abstract: bool = True

    #: Celery's errors, by the names that they have there.
    MaxRetriesExceededError: type[Exception] = MaxRetriesExceededError
    OperationalError: type[Exception] = ServerUnavailableError

    #: Whether its function takes the task as its first argument.
    is_bound: bool = True
    #: The last limit that :meth:`retry` was given, for the retries by ``autoretry_for``.
    override_max_retries: int | None = None
    _app: SendingApp | None = None

    if TYPE_CHECKING:
        #: What the task does.
        run: Callable[..., Any]
        #: Its function as it was decorated.
        __wrapped__: Callable[..., Any]

    def __repr__(self) -> str:
        return f"<Task {self.name}>"

    @property
    def app(self) -> SendingApp:
        """The app that sends it."""
        return self._app or current_app()

    @property
    def options(self) -> dict[str, Any]:
        """The options of a call that has none of its own."""
        found = {name: getattr(self, name) for name in OF_A_CALL}
        return {name: value for name, value in found.items() if value is not None}

    def bind(self, app: SendingApp) -> "Task":
        """Make it a task of an app, and return it; :meth:`on_bound` is called."""
        self._app = app
        # No other attribute is looked at: a property of the class may open a connection.
        warn_of_lost({name: getattr(self, name, None) for name in (*LOST, "serializer")}, Task)
        self.on_bound(app)
        return self

    def on_bound(self, app: SendingApp) -> None:
        """Called when it has become a task of an app."""

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Called before its function is called."""

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        """Called when its function has returned a value."""

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called when it has failed, and is not executed again."""

    def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called when it is to be executed again."""

    def after_return(
        self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any
    ) -> None:
        """Called last, when it has succeeded or failed."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task's function in this process, and return its value."""
        if called_by_execution(self):
            return self.run(*args, **kwargs)
        with running(Request(args=args, kwargs=kwargs, task=self.name)):
            return self.run(*args, **kwargs)

    @property
    def request(self) -> Request:
        """The request of the task that runs now; an empty one if it was called directly."""
        return current_request()

    def s(self, *args: Any, **kwargs: Any) -> Signature:
        """Return a signature that takes further arguments."""
        return Signature(self, args, kwargs)

    def si(self, *args: Any, **kwargs: Any) -> Signature:
        """Return a signature that takes no further arguments."""
        return Signature(self, args, kwargs, immutable=True)

    def signature(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        **more_options: Any,
    ) -> Signature:
        """Return a signature with these arguments and options."""
        return Signature(self, args, kwargs, options, **more_options)

    #: The same as ``signature`` (Celery's older name).
    subtask = signature

    def map(self, it: Iterable[Any]) -> xmap:
        """Return a signature of one task that calls this one with each item."""
        return xmap(self.s(), it, app=self.app)

    def starmap(self, it: Iterable[Any]) -> xstarmap:
        """Return a signature of one task that calls this one with the arguments in each item."""
        return xstarmap(self.s(), it, app=self.app)

    def chunks(self, it: Iterable[Any], n: int) -> chunks:
        """Return a signature of tasks that each call this one for so many items."""
        return chunks(self.s(), it, n, app=self.app)

    def delay(self, *args: Any, **kwargs: Any) -> AsyncResult | EagerResult:
        """Send the task with these arguments."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> AsyncResult | EagerResult:
        """Send the task.

        Args:
            args: its positional arguments; JSON data, as all arguments, and times, decimals, UUIDs
                and bytes.
            kwargs: its arguments by name.
            options: ``queue``; ``routing_key``, by which ``task_queues`` name a queue if there is
                no ``queue``; ``priority``, higher first; ``countdown`` in seconds, or ``eta``, a
                time, before which the task does not start; ``expires``, seconds or a time after
                which it does not; ``time_limit`` and ``soft_time_limit`` in seconds; ``task_id``;
                ``link`` and ``link_error``, signatures to be sent when it has succeeded or failed;
                ``headers``, which it reads as ``self.request.headers``; ``ignore_result``.

        Returns:
            The result, to be waited for; in eager mode that of the task, which has run.

        Raises:
            ServerUnavailableError: the broker does not answer; nothing was sent.
            ConfigError: an option that is not there, or that this project cannot keep.
            TypeError: its function does not take these arguments.
        """
        kept = checked(options)
        self.app.annotate(self)
        if self.typing is not False:
            inspect.signature(self.run).bind(*(args or ()), **(kwargs or {}))
        if self.app.is_eager:
            with in_tests.sending():
                return self.apply(args, kwargs, **kept)
        merged = {**self.options, **kept}
        sent: AsyncResult = self.app.send_task(self.name, args, kwargs, **merged)
        return sent

    def apply(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        retries: int = 0,
        throw: bool | None = None,
        link: Any = None,
        link_error: Any = None,
        **options: Any,
    ) -> EagerResult:
        """Run the task in this process.

        Args:
            args: its positional arguments.
            kwargs: its arguments by name.
            task_id: its id; a new one for ``None``.
            retries: how often it was executed before.
            throw: whether its exception is raised here; the setting ``task_eager_propagates`` for
                ``None``.
            link: as for :meth:`apply_async`.
            link_error: as for :meth:`apply_async`.
            options: as for :meth:`apply_async`; they are checked, and change nothing.

        Returns:
            Its result, with its exception if it raised one.

        Raises:
            ConfigError: as :meth:`apply_async`.
            Exception: that of the task, if ``throw`` is true.
        """
        given = checked(options)
        known = str(task_id or uuid.uuid4())
        if in_tests.is_sending() and not retries:
            sent = {**given, "task_id": known}
            in_tests.note_sent(self.app.request(self.name, args or (), kwargs or {}, sent))
        carried = {**options, "link": link, "link_error": link_error, "retries": retries}
        request = Request.of_call(known, self.name, tuple(args or ()), kwargs or {}, carried)
        with in_tests.sending(False):
            return execute_here(self, request, throw)

    def retry(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        exc: BaseException | None = None,
        throw: bool = True,
        eta: datetime | None = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> BaseException:
        """Have the task that runs now executed again, under the same id.

        Args:
            args: its positional arguments, if they are new.
            kwargs: its arguments by name, if they are new.
            exc: why. Raised if it was executed too often.
            throw: whether the exception is raised here; otherwise it is returned.
            eta: when, at the earliest.
            countdown: in how many seconds; ``default_retry_delay`` if neither is given.
            max_retries: how often it may be executed again at most; the task's own for ``None``.
            options: options that differ from those of this execution, such as ``queue``.

        Returns:
            The exception, to be raised.

        Raises:
            Retry: it is executed again.
            MaxRetriesExceededError: it was executed too often, and there is no ``exc``.
            Exception: ``exc``, if it was executed too often, or was called and not sent.
        """
        request = self.request
        if max_retries is not None:
            self.override_max_retries = max_retries
        limit = self.max_retries if max_retries is None else max_retries
        if request.called_directly:
            raise_in_context(exc or as_celerys(Retry("Task can be retried")))
        if request.run_id:
            raise_in_context(
                exc or ConfigError("A step or run is tried again by Dagster: use a RetryPolicy.")
            )
        if eta is None and countdown is None:
            countdown = self.default_retry_delay
        again = next_arguments(self.run, request, args, kwargs)
        retries = request.retries + 1
        if limit is not None and retries > limit:
            if exc is not None:
                raise_in_context(exc)
            text = f"Can't retry {self.name}[{request.id}] args:{again[0]} kwargs:{again[1]}"
            error = MaxRetriesExceededError(text, task_args=again[0], task_kwargs=again[1])
            raise as_celerys(error)
        when = countdown if eta is None else eta
        if request.is_eager:
            call = Signature(self, *again, {**request.carried, "retries": retries}, **options)
            retry = Retry(exc=exc, when=when, is_eager=True, sig=call.set(task_id=request.id))
        else:
            options = {"eta": eta, "countdown": countdown, "retries": retries, **options}
            self._send_again(*again, options)
            retry = Retry(exc=exc, when=when)
            retry.is_sent = True
            self._report("RETRY", None if exc is None else repr(exc))
        if throw:
            raise as_celerys(retry)
        return as_celerys(retry)

    def send_back(self) -> None:
        """Put the task that runs now back to its queue; it counts as no retry."""
        request = self.request
        self._send_again(request.args, request.kwargs, {"retries": request.retries})

    def _send_again(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> None:
        """Send the task that runs now under its own id: it is put back when its function ends."""
        request = self.request
        hard, soft = request.timelimit
        expires = datetime.fromisoformat(request.expires) if request.expires else None
        known = {
            **request.carried,
            "task_id": request.id,
            "queue": request.delivery_info.get("routing_key"),
            "priority": request.delivery_info.get("priority"),
            "time_limit": hard,
            "soft_time_limit": soft,
            "expires": expires,
        }
        self.app.send_task(self.name, args, kwargs, **{**known, **options})

    def replace(self, sig: Any) -> NoReturn:
        """Have others executed in the place of the task that runs now, under its id.

        Args:
            sig: a call of one task, or a signature of several, of which the last one gets the id.
                Of a group, the list of the values of its tasks is the value.

        Raises:
            Ignore: always, to end this one.
            ConfigError: a task of a chord's header has an id of its own.
        """
        other: Signature = maybe_signature(sig, self.app)
        request = self.request
        if other.kind is not None:
            other = with_one_end(other, self.app)
        if request.is_eager:
            raise as_celerys(Replaced(sig=other))
        if other.kind is not None:
            send(in_place_of(request, other, self.app), root_id=request.root_id)
        else:
            known = {**request.carried, "task_id": request.id, "retries": 0}
            merged = {name: each for name, each in known.items() if each is not None}
            other.clone().apply_async((), {}, **merged)
        raise as_celerys(Replaced(f"Replaced by {other.name}"))

    def update_state(
        self, task_id: str | None = None, state: str | None = None, meta: Any = None, **_: Any
    ) -> None:
        """Report the state of the task that runs now, as ``AsyncResult.state`` and ``.info``.

        Args:
            task_id: of another task, if it is not this one.
            state: the state; any text.
            meta: more about it; JSON data, or an exception.

        A task that raises ``Ignore`` after this ends so: ``FAILURE`` and ``REVOKED`` are errors, by
        an exception or what Celery makes of one, and ``SUCCESS`` has ``meta`` as its value.
        """
        request = self.request
        if task_id in (None, request.id):
            request.reported.update(state=state, meta=meta)
        if not request.is_eager:
            self._report(state or "STARTED", meta, task_id)

    def _report(self, state: str, meta: Any, task_id: str | None = None) -> None:
        meta = described(meta) if isinstance(meta, BaseException) else to_result(meta)
        progress = TaskProgress[Any](state=state, meta=meta)
        self.app.client.set_progress(task_id or str(self.request.id), progress)

    def AsyncResult(self, task_id: str, **_: Any) -> AsyncResult:
        """Return the result of a task that was sent before."""
        found: AsyncResult = self.app.AsyncResult(task_id)
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self.name, type(self).__module__)

    # Hidden from type checkers: they are to report an attribute that is not here.
    if not TYPE_CHECKING:

        @property
        def __name__(self) -> str:
            """The name of its function or class."""
            return type(self).__name__

        def run(self, *args: Any, **kwargs: Any) -> Any:
            """Do what the task does."""
            raise NotImplementedError("Tasks must define the run method.")

        def __getattr__(self, name: str) -> Any:
            raise absent(f"task {type(self).name}", name)


def _unpickled(name: str, module: str) -> Any:
    """Return the task of a name of the current app; its module is imported for that."""
    import_module(module)
    return current_app().tasks[name]


def task_of(
    app: SendingApp,
    function: Callable[..., Any],
    name: str,
    base: type[Task],
    bind: bool,
    options: Mapping[str, Any],
) -> Task:
    """Return a task that calls a function.

    Args:
        app: sends it.
        function: does it.
        name: it is sent and found by this name.
        base: its base class.
        bind: whether the function gets the task as its first argument.
        options: attributes of the task.

    Raises:
        ConfigError: an option that this project cannot keep.
    """
    check_attributes(options)
    members = {
        "name": name,
        "run": function if bind else staticmethod(function),
        "is_bound": bind,
        "abstract": False,
        "__doc__": function.__doc__,
        "__module__": function.__module__,
        "__wrapped__": staticmethod(function),
        **options,
    }
    made: Task = type(getattr(function, "__name__", name), (base,), members)()
    return made.bind(app)
