"""The part of Celery's app object that Dagster projects use, with a taskiq broker inside.

Tasks are defined, sent and awaited by the names Celery gives all that. What is not here raises an
``AttributeError`` which says so.
"""

import fnmatch
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from difflib import get_close_matches
from importlib import import_module
from types import ModuleType
from typing import Any, TypeVar, overload
from zoneinfo import ZoneInfo

from dagster_celery._celery_control import Control
from dagster_celery._celery_result import AsyncResult, EagerResult
from dagster_celery._configuration import Configuration, configure
from dagster_celery._translate.setting_rows import SETTINGS
from dagster_taskiq import app
from dagster_taskiq.client import Client, client_for
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.execution.task_context import current_context, current_message
from dagster_taskiq.settings.env import resolve_env
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.wire.labels import PRIORITY_LABEL, QUEUE_LABEL, RUN_LABEL
from dagster_taskiq.wire.task_request import TaskRequest

F = TypeVar("F", bound=Callable[..., Any])

#: Options of a task or a call that say nothing here: how a message is written, and what is done
#: about a broker that is away.
WITHOUT_EFFECT = frozenset(
    {
        "acks_late",
        "acks_on_failure_or_timeout",
        "add_to_parent",
        "compression",
        "connection",
        "default_retry_delay",
        "exchange",
        "headers",
        "ignore_result",
        "max_retries",
        "producer",
        "publisher",
        "rate_limit",
        "reject_on_worker_lost",
        "reply_to",
        "retry",
        "retry_policy",
        "send_events",
        "serializer",
        "shadow",
        "store_errors_even_if_ignored",
        "throws",
        "track_started",
        "trail",
        "typing",
    }
)

#: Options of a task or a call that are kept.
OPTIONS = frozenset(
    {
        "countdown",
        "eta",
        "expires",
        "priority",
        "queue",
        "routing_key",
        "soft_time_limit",
        "task_id",
        "time_limit",
    }
)


#: The step for which a task is being sent by the loop of a run: its id, and what belongs to it.
SENT_FOR: ContextVar[TaskRequest] = ContextVar("dagster_celery_sent_for")


@dataclass(frozen=True)
class Queue:
    """A queue as ``task_queues`` lists it; kombu's own objects serve as well."""

    name: str
    routing_key: str = ""
    queue_arguments: Mapping[str, Any] = field(default_factory=dict)


class Conf(MutableMapping[str, Any]):
    """The app's configuration, by Celery's names, as items and as attributes."""

    def __init__(self, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        #: What the project has set, and what holds where it has not.
        self.__dict__["given"] = dict(given)
        self.__dict__["defaults"] = dict(defaults)

    def __getitem__(self, name: str) -> Any:
        given: dict[str, Any] = self.__dict__["given"]
        defaults: dict[str, Any] = self.__dict__["defaults"]
        return resolve_env(given[name]) if name in given else defaults[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self.__dict__["given"][name] = value

    def __delitem__(self, name: str) -> None:
        del self.__dict__["given"][name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self.__dict__["defaults"], **self.__dict__["given"]})

    def __len__(self) -> int:
        return len({**self.__dict__["defaults"], **self.__dict__["given"]})

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        if name in SETTINGS:
            return None
        close = get_close_matches(name, [*SETTINGS, *self], 1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise AttributeError(f"{name} is no setting of Celery.{hint}")

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __repr__(self) -> str:
        return f"Conf({', '.join(sorted(self))})"  # values may hold passwords


@dataclass(frozen=True)
class Request:
    """What a bound task reads as ``self.request``."""

    id: str | None = None
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    #: The worker's name.
    hostname: str = ""
    #: How often the task was tried before. Steps are retried by Dagster, as tasks of their own.
    retries: int = 0
    called_directly: bool = True
    is_eager: bool = False
    delivery_info: Mapping[str, Any] = field(default_factory=dict)
    #: The run for which the task was sent, by the loop of a run; empty for any other.
    run_id: str = ""

    @property
    def root_id(self) -> str | None:
        """The task's own id, as nothing is chained here."""
        return self.id


#: The request of a task that is run where it was called.
_EAGER_REQUEST: ContextVar[Request] = ContextVar("dagster_celery_eager_request")


@dataclass
class Signature:
    """A task with the arguments it will be called with."""

    task: "Task"
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    #: Whether arguments given later are ignored.
    immutable: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def set(self, **options: Any) -> "Signature":
        """Keep options for :meth:`apply_async`, and return the signature."""
        self.options.update(options)
        return self

    def apply_async(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> "AsyncResult | EagerResult":
        """Send the task; see :meth:`Task.apply_async` for the options."""
        return self.task.apply_async(*self._with(args, kwargs), **{**self.options, **options})

    def delay(self, *args: Any, **kwargs: Any) -> "AsyncResult | EagerResult":
        """Send the task with these further arguments."""
        return self.apply_async(args, kwargs)

    def apply(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> EagerResult:
        """Run the task here and now."""
        return self.task.apply(*self._with(args, kwargs))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        all_args, all_kwargs = self._with(args, kwargs)
        return self.task(*all_args, **all_kwargs)

    def _with(
        self, args: Sequence[Any], kwargs: Mapping[str, Any] | None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if self.immutable:
            return self.args, self.kwargs
        return (*args, *self.args), {**self.kwargs, **(kwargs or {})}


class Task:
    """A task of an app, as ``@app.task`` makes it."""

    def __init__(
        self, app: "CeleryApp", function: Callable[..., Any], name: str, bind: bool, options: Any
    ) -> None:
        self.app = app
        self.name = name
        self.options: dict[str, Any] = _checked(options)
        self.__doc__ = function.__doc__
        self.__wrapped__ = function
        self._bind = bind

    def __repr__(self) -> str:
        return f"<Task {self.name}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task's function here and now, and return what it returns."""
        return self.run(*args, **kwargs)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task's function; a bound one gets its arguments without the task itself."""
        return self.__wrapped__(*((self,) if self._bind else ()), *args, **kwargs)

    @property
    def request(self) -> Request:
        """The request that is served now; that of a direct call where none is."""
        message = current_message()
        eager = _EAGER_REQUEST.get(None)
        if eager is not None or message is None:
            return eager or Request()
        labels = message.labels
        queue, priority = labels.get(QUEUE_LABEL, ""), labels.get(PRIORITY_LABEL, 0)
        return Request(
            id=message.task_id,
            args=message.args,
            kwargs=message.kwargs,
            hostname=current_context().worker,
            called_directly=False,
            delivery_info={"routing_key": queue, "priority": priority, "redelivered": False},
            run_id=str(labels.get(RUN_LABEL, "")),
        )

    def s(self, *args: Any, **kwargs: Any) -> Signature:
        """Return a signature that takes further arguments."""
        return Signature(self, args, kwargs)

    def si(self, *args: Any, **kwargs: Any) -> Signature:
        """Return a signature that takes no further arguments."""
        return Signature(self, args, kwargs, immutable=True)

    def signature(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Signature:
        """Return a signature with these arguments and options."""
        return Signature(self, tuple(args), dict(kwargs or {}), options=options)

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
            args: its positional arguments; JSON data, as all arguments.
            kwargs: its arguments by name.
            options: ``queue``; ``routing_key``, by which ``task_queues`` name a queue where
                ``queue`` is not given; ``priority``, higher first; ``countdown`` in seconds, or
                ``eta``, a time, before which the task does not start; ``expires``, seconds or a
                time after which it does not; ``time_limit`` and ``soft_time_limit`` in seconds;
                ``task_id``.

        Returns:
            Its result to come; in eager mode the result it has had.

        Raises:
            ServerUnavailableError: the broker does not answer; nothing was sent.
            ConfigError: an option that is not there, or that this project cannot keep.
        """
        merged = {**self.options, **_checked(options)}
        if self.app.is_eager:
            return self.apply(args, kwargs, task_id=merged.get("task_id"))
        return self.app.send(self.name, args or (), kwargs or {}, merged)

    def apply(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        **options: Any,
    ) -> EagerResult:
        """Run the task here and now; its result has the error, if it raised one."""
        _checked(options)
        request = Request(
            id=task_id or str(uuid.uuid4()),
            args=args or (),
            kwargs=kwargs or {},
            hostname=socket.gethostname(),
            called_directly=False,
            is_eager=True,
        )
        token = _EAGER_REQUEST.set(request)
        try:
            return EagerResult.of(
                str(request.id),
                lambda: self(*request.args, **request.kwargs),
                propagate=bool(self.app.conf.task_eager_propagates),
            )
        finally:
            _EAGER_REQUEST.reset(token)

    def AsyncResult(self, task_id: str) -> AsyncResult:
        """Return the result of a task that was sent before."""
        return self.app.AsyncResult(task_id)

    def __getattr__(self, name: str) -> Any:
        options = self.__dict__.get("options", {})
        if name in options:
            return options[name]
        raise _not_here(f"task {self.__dict__.get('name', '')}", name)


class CeleryApp:
    """An app as ``make_app`` makes it."""

    def __init__(
        self,
        main: str = "dagster",
        broker: str | None = None,
        backend: str | None = None,
        include: Sequence[str] | None = None,
        config_source: Any = None,
        task_default_queue: str | None = None,
        defaults: Mapping[str, Any] | None = None,
        file: str | None = None,
    ) -> None:
        """Make the app; nothing is connected until it is used.

        Args:
            main: its name.
            broker: Celery's broker URL.
            backend: Celery's result backend.
            include: modules that workers import.
            config_source: Celery's settings: a mapping, an object with attributes, or the name of a
                module.
            task_default_queue: wins over that of ``config_source``.
            defaults: what ``conf`` says where nothing is set.
            file: where the settings are written, for warnings about them; ``None`` for the program.

        Raises:
            ConfigError: a setting or URL that cannot be translated.
        """
        self.main = main
        self.tasks: dict[str, Task] = {}
        given = as_mapping(config_source)
        for name, value in (
            ("broker_url", broker),
            ("result_backend", backend),
            ("include", list(include or ()) or None),
            ("task_default_queue", task_default_queue),
        ):
            if value is not None:
                given[name] = value
        self.conf = Conf(given, defaults or {})
        self.control = Control(self)
        self._file = file
        self._configured: tuple[dict[str, Any], Configuration] | None = None
        self._broker: QueueBroker | None = None
        self.configuration  # noqa: B018 - what cannot work is said now, not when it is used

    def __repr__(self) -> str:
        return f"<CeleryApp {self.main} {self.configuration.settings!r}>"

    @property
    def configuration(self) -> Configuration:
        """The configuration as the engine has it.

        Raises:
            ConfigError: it cannot be translated.
        """
        given = dict(self.conf.given)
        if self._configured is None or self._configured[0] != given:
            source = {name: value for name, value in given.items() if name not in _PASSED}
            self._configured = (
                given,
                configure(
                    broker=given.get("broker_url"),
                    backend=given.get("result_backend"),
                    include=given.get("include") or (),
                    config_source=source,
                    file=self._file,
                ),
            )
        return self._configured[1]

    @property
    def is_eager(self) -> bool:
        """Whether tasks run where they are sent."""
        return bool(self.configuration.app.get("task_always_eager"))

    @property
    def client(self) -> Client:
        """The open door to broker and backend.

        Raises:
            ServerUnavailableError: one of them does not answer.
        """
        client = client_for(self.configuration.settings.resolved())
        if client.in_process is not None:
            self._register_all(client.broker)
        return client

    @property
    def taskiq_broker(self) -> QueueBroker:
        """The broker that a worker listens to, with this app's tasks on it."""
        if self._broker is None:
            self._broker = app.make(self.configuration.settings)
            self._register_all(self._broker)
        return self._broker

    @overload
    def task(self, function: F, /) -> Task: ...
    @overload
    def task(
        self, *, name: str | None = None, bind: bool = False, **options: Any
    ) -> Callable[[Callable[..., Any]], Task]: ...

    def task(
        self,
        function: Callable[..., Any] | None = None,
        *,
        name: str | None = None,
        bind: bool = False,
        **options: Any,
    ) -> Any:
        """Make a task of a function; a decorator, with or without options.

        Args:
            function: what the task does.
            name: by which it is sent and found; module and name of the function where ``None``.
            bind: whether the function gets the task itself as its first argument.
            options: defaults for those of :meth:`Task.apply_async`. Those that Celery has beyond
                these and that say nothing here are accepted.

        Returns:
            The task; a name that is taken keeps the task it has, as in Celery.
        """

        def make(original: Callable[..., Any]) -> Task:
            known = name or f"{original.__module__}.{original.__name__}"
            if known not in self.tasks:
                self.tasks[known] = Task(self, original, known, bind, options)
                if self._broker is not None:
                    _register(self._broker, self.tasks[known])
            return self.tasks[known]

        return make if function is None else make(function)

    def send_task(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> AsyncResult:
        """Send a task by its name, which need not be known here; see :meth:`Task.apply_async`."""
        return self.send(name, args or (), kwargs or {}, _checked(options))

    def send(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> AsyncResult:
        """Send a task with options that have been checked; see :meth:`Task.apply_async`."""
        limits = ("time_limit", "soft_time_limit")
        priority = options.get("priority")
        order = TaskRequest(
            id=str(options.get("task_id") or uuid.uuid4()),
            name=name,
            args=list(args),
            kwargs=dict(kwargs),
            queue=self.queue_for(name, options),
            priority=int(self.conf.task_default_priority or 0) if priority is None else priority,
            delay=self._seconds_until(options.get("countdown"), options.get("eta")),
            expires_at=self._expiry(options.get("expires")),
            labels={each: options[each] for each in limits if options.get(each)},
        )
        step = SENT_FOR.get(None)
        if step is not None:
            order = replace(
                order,
                id=step.id,
                run_id=step.run_id,
                step_key=step.step_key,
                labels={**step.labels, **order.labels},
            )
        self.client.submit(order)
        return self.AsyncResult(order.id)

    def queue_for(self, name: str, options: Mapping[str, Any]) -> str:
        """Return the queue of a task: its option, its route, or the default one."""
        if options.get("queue"):
            return str(options["queue"])
        route = _route(name, self.conf.task_routes or {})
        routing_key = options.get("routing_key") or route.get("routing_key")
        if "queue" in route and not options.get("routing_key"):
            return str(route["queue"])
        for queue in self.conf.task_queues or ():
            if routing_key and getattr(queue, "routing_key", None) == routing_key:
                return str(queue.name)
        return self.configuration.settings.queue

    def AsyncResult(self, task_id: str, *_: Any, **__: Any) -> AsyncResult:
        """Return the result of a task that was sent before, by anyone."""
        return AsyncResult(task_id, self)

    def config_from_object(self, source: Any, silent: bool = False, force: bool = False) -> None:
        """Add the settings of a module, by name, or of an object, to ``conf``.

        Raises:
            ImportError: there is no such module, unless ``silent``.
        """
        del force  # everything here is read when it is needed
        try:
            self.conf.update(as_mapping(source))
        except ImportError:
            if not silent:
                raise

    def finalize(self, auto: bool = False) -> None:
        """Do nothing: tasks are there when they are defined (Celery's method)."""

    def close(self) -> None:
        """Do nothing: connections are closed when the process ends (Celery's method)."""

    def _register_all(self, broker: QueueBroker) -> None:
        for task in self.tasks.values():
            _register(broker, task)

    def _seconds_until(self, countdown: float | None, eta: datetime | None) -> float:
        if eta is not None:
            return max(0.0, self._timestamp(eta) - time.time())
        return max(0.0, float(countdown or 0))

    def _expiry(self, expires: float | datetime | None) -> float:
        if expires is None:
            return 0.0
        if isinstance(expires, datetime):
            return self._timestamp(expires)
        return time.time() + float(expires)

    def _timestamp(self, when: datetime) -> float:
        """Return seconds since the epoch; a time without a zone is in the app's."""
        if when.tzinfo is None:
            zone = self.conf.timezone
            when = when.replace(tzinfo=ZoneInfo(zone) if zone else timezone.utc)
        return when.timestamp()

    def __getattr__(self, name: str) -> Any:
        raise _not_here("Celery's app", name)


#: Settings that the app passes on by their own parameters.
_PASSED = ("broker_url", "result_backend", "include")


def as_mapping(source: Any) -> dict[str, Any]:
    """Return settings as a dictionary, whether they are a mapping, an object or a module's name."""
    if source is None:
        return {}
    if isinstance(source, str):
        source = import_module(source)
    if not isinstance(source, Mapping):
        source = {name: value for name, value in vars(source).items() if _is_setting(name, value)}
    return dict(source)


def _register(broker: QueueBroker, task: Task) -> None:
    if broker.find_task(task.name) is not None:
        return

    def run(*args: Any, **kwargs: Any) -> Any:
        return task(*args, **kwargs)

    run.__module__ = task.__wrapped__.__module__
    broker.register_task(run, task_name=task.name)


def _route(name: str, routes: Any) -> Mapping[str, Any]:
    if not isinstance(routes, Mapping):
        return {}
    fitting = (each for each in routes if fnmatch.fnmatchcase(name, str(each)))
    found: str | Mapping[str, Any] = routes.get(name) or routes.get(next(fitting, None)) or {}
    return {"queue": found} if isinstance(found, str) else found


def _is_setting(name: str, value: Any) -> bool:
    """Whether a module has a name as a setting, and not because it has imported or defined it."""
    if name in SETTINGS:
        return True
    return not (name.startswith("_") or isinstance(value, ModuleType) or callable(value))


def _checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that are kept.

    Raises:
        ConfigError: one of them would change what happens, and cannot be kept.
    """
    unknown = [
        name
        for name, value in options.items()
        if name not in OPTIONS and name not in WITHOUT_EFFECT and value is not None
    ]
    if unknown:
        close = get_close_matches(unknown[0], OPTIONS | WITHOUT_EFFECT, 1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise ConfigError(
            f"The task option {unknown[0]!r} is not served here.{hint} Served are: "
            f"{', '.join(sorted(OPTIONS))}."
        )
    return {name: value for name, value in options.items() if name in OPTIONS}


def _not_here(what: str, name: str) -> AttributeError:
    return AttributeError(
        f"The part of {what} that dagster-taskiq has does not include {name!r}. Use taskiq's own "
        "broker instead: dagster_taskiq.app.broker."
    )
