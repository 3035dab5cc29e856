"""The app object: tasks are defined on it, sent with it, and found on it by a worker."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, overload

from dagster_celery._celery_app.absent import absent
from dagster_celery._celery_app.beat.schedules import BeatSchedules, periodic_entry
from dagster_celery._celery_app.celery_command import celery_command_refused
from dagster_celery._celery_app.conf import Conf, as_mapping
from dagster_celery._celery_app.control import Control
from dagster_celery._celery_app.results import AsyncResult
from dagster_celery._celery_app.routing import Call, options_of, queue_of, route_of
from dagster_celery._celery_app.sending import task_request
from dagster_celery._celery_app.signature import Signature
from dagster_celery._celery_app.task import Task
from dagster_celery._celery_app.task_options import checked
from dagster_celery._celery_app.values import to_result
from dagster_celery._configuration import Configuration, configure
from dagster_celery._step_watchers.watchers import call_as_watcher
from dagster_taskiq import app as taskiq_app
from dagster_taskiq.client import Client, client_for
from dagster_taskiq.transport import current
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.wire.task_request import TaskRequest

F = TypeVar("F", bound=Callable[..., Any])

#: Settings that are passed to ``configure`` by parameters of their own.
_PASSED = ("broker_url", "result_backend", "include")


class CeleryApp:
    """An app as ``make_app`` makes it.

    What Celery's app has beyond this raises an ``AttributeError`` that names taskiq's broker.
    """

    def __init__(
        self,
        main: str = "dagster",
        broker: str | None = None,
        backend: str | None = None,
        include: Sequence[str] | None = None,
        config_source: Any = None,
        settings: Mapping[str, Any] | None = None,
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
            settings: Celery's settings by name, which win over those of ``config_source``; ``None``
                as the value of one counts as not given.
            defaults: what ``conf`` has for settings that are not set.
            file: the file that the settings are from, for warnings about them; ``None`` if they are
                from the program.

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
            *(settings or {}).items(),
        ):
            if value is not None:
                given[name] = value
        self.conf = Conf(given, defaults or {})
        self.control = Control(self)
        self._file = file
        self._configured: tuple[dict[str, Any], Configuration] | None = None
        self._broker: QueueBroker | None = None
        self.configuration  # noqa: B018 - an error of the settings is raised here, not at first use

    def __repr__(self) -> str:
        return f"<CeleryApp {self.main} {self.configuration.settings!r}>"

    @property
    def configuration(self) -> Configuration:
        """The settings of ``conf`` as the engine takes them.

        Raises:
            ConfigError: they cannot be translated.
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
        """Whether tasks run in the process that sends them, at once; so do all in tests."""
        if current.is_kept_in_memory():
            return True
        return bool(self.configuration.app.get("task_always_eager"))

    @property
    def client(self) -> Client:
        """The client of broker and backend, connected.

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
            self._broker = taskiq_app.make(self.configuration.settings)
            self._broker.schedule_sources.append(BeatSchedules(self))
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
            name: the task is sent and found by it; module and name of the function for ``None``.
            bind: whether the function gets the task itself as its first argument.
            options: defaults for those of :meth:`Task.apply_async`. Those that Celery has beyond
                these and that change nothing here are accepted.

        Returns:
            The task; a name that is taken keeps the task it has, as in Celery.

        Raises:
            ConfigError: an option that is not there, or that this project cannot keep.
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
        """Send a task by its name; it need not be defined on this app.

        Args:
            name: the task's name.
            args: its positional arguments; JSON data, as all arguments, and times, decimals, UUIDs
                and bytes.
            kwargs: its arguments by name.
            options: as for :meth:`Task.apply_async`.

        Raises:
            ServerUnavailableError: the broker does not answer; nothing was sent.
            ConfigError: an option that is not there, or that this project cannot keep.
        """
        return self.send(name, args or (), kwargs or {}, checked(options))

    def send(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> AsyncResult:
        """Send a task with options that have been checked; see :meth:`send_task`."""
        request = self._request(name, args, kwargs, options)
        self.client.submit(request)
        return self.AsyncResult(request.id)

    def request(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> TaskRequest:
        """Return the request that :meth:`send_task`, or the task's ``apply_async``, would send.

        Raises:
            ConfigError: an option that is not there, or that this project cannot keep.
        """
        task = self.tasks.get(name)
        merged = {**(task.options if task is not None else {}), **checked(options)}
        return self._request(name, args, kwargs, merged)

    def _request(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> TaskRequest:
        route = self._route(name, args, kwargs, options)
        return task_request(
            name,
            args,
            kwargs,
            {**options_of(route), **options},
            queue=queue_of(options, route, self.conf, self.configuration.settings.queue),
            default_priority=int(self.conf.task_default_priority or 0),
            zone=self.conf.timezone,
            now=time.time(),
        )

    def add_periodic_task(
        self,
        schedule: Any,
        sig: Signature,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        **options: Any,
    ) -> str:
        """Add an entry to ``beat_schedule``.

        Args:
            schedule: when it is due: seconds, a ``timedelta``, or a crontab.
            sig: the task, with its arguments and options.
            args: arguments before those of the signature.
            kwargs: more arguments by name.
            name: the key of the entry; made from the signature if there is none.
            options: more options.

        Returns:
            The key.
        """
        key, entry = periodic_entry(schedule, sig, args, kwargs or {}, name, options)
        self.conf.beat_schedule = {**(self.conf.beat_schedule or {}), key: entry}
        return key

    def queue_for(self, name: str, options: Mapping[str, Any]) -> str:
        """Return the queue of a task: its option, its route, or the default one."""
        route = self._route(name, (), {}, options)
        return queue_of(options, route, self.conf, self.configuration.settings.queue)

    def _route(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> Mapping[str, Any]:
        return route_of(Call(name, args, kwargs, self.tasks.get(name)), options, self.conf)

    def AsyncResult(self, task_id: str, *_: Any, **__: Any) -> AsyncResult:
        """Return the result of a task that was sent before, by any process."""
        return AsyncResult(task_id, self)

    def config_from_object(self, source: Any, silent: bool = False, force: bool = False) -> None:
        """Add settings to ``conf``.

        Args:
            source: a mapping, an object with settings as attributes, or the name of a module.
            silent: whether a module that is not there is ignored.
            force: has no effect: settings are read when they are needed.

        Raises:
            ImportError: there is no such module, unless ``silent``.
        """
        del force
        try:
            self.conf.update(as_mapping(source))
        except ImportError:
            if not silent:
                raise

    def finalize(self, auto: bool = False) -> None:
        """Do nothing: tasks are there when they are defined (Celery's method)."""

    def close(self) -> None:
        """Do nothing: connections are closed when the process ends (Celery's method)."""

    @property
    def user_options(self) -> NoReturn:
        """Refuse the command ``celery -A``, which reads this of its app before it does anything.

        Raises:
            click.ClickException: always; it names the command to run instead.
        """
        raise celery_command_refused()

    def _register_all(self, broker: QueueBroker) -> None:
        for task in self.tasks.values():
            _register(broker, task)

    # Hidden from type checkers: they are to report an attribute that is not here.
    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            raise absent("Celery's app", name)


def _register(broker: QueueBroker, task: Task) -> None:
    """Register a task's function on a broker, unless the broker has a task of that name."""
    if broker.find_task(task.name) is not None:
        return

    def run(*args: Any, **kwargs: Any) -> Any:
        return to_result(call_as_watcher(task.name, task, args, kwargs))

    run.__module__ = task.__wrapped__.__module__
    broker.register_task(run, task_name=task.name)
