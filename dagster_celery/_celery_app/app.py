"""The app object by Celery's names: tasks are defined on it, sent with it, and found by a worker.

A project calls it, and so do tasks, signatures, results and ``beat`` by the protocols in their own
modules. It calls ``app_settings``, ``app_tasks`` and ``app_sending``, each of which keeps one kind
of what an app has.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from threading import RLock
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, overload
from zoneinfo import ZoneInfo

from dagster_celery._celery_app import celerys_state, in_tests, own_tasks, processes
from dagster_celery._celery_app.absent import absent
from dagster_celery._celery_app.app_events import AppEvent
from dagster_celery._celery_app.app_sending import AppSending
from dagster_celery._celery_app.app_settings import AppSettings
from dagster_celery._celery_app.app_tasks import AppTasks
from dagster_celery._celery_app.beat.schedules import BeatSchedules, periodic_entry
from dagster_celery._celery_app.celery_command import celery_command_refused
from dagster_celery._celery_app.celerys_canvas import Backend, producer_or_acquire
from dagster_celery._celery_app.conf import as_mapping
from dagster_celery._celery_app.control import Control
from dagster_celery._celery_app.current_app import AppTask, set_current_app
from dagster_celery._celery_app.discovery import Discovery, Packages
from dagster_celery._celery_app.request import current_request
from dagster_celery._celery_app.results import AnyResult, AsyncResult, EagerResult, GroupResult
from dagster_celery._celery_app.signals import send_signal
from dagster_celery._celery_app.signature import Signature, signature
from dagster_celery._celery_app.task import Task
from dagster_celery._celery_app.task_options import checked
from dagster_celery._configuration import Configuration
from dagster_celery._warnings import warn_of_loss
from dagster_taskiq import app as taskiq_app
from dagster_taskiq.client import Client, client_for
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.worker_fleet import worker_settings
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.wire.task_request import TaskRequest

F = TypeVar("F", bound=Callable[..., Any])


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
        namespace: str = "",
        set_as_current: bool = True,
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
            namespace: what the names of the settings in ``config_source`` begin with; see
                :meth:`config_from_object`.
            set_as_current: whether it is the app of shared tasks, and of signatures that name none,
                until another is made.

        Raises:
            ConfigError: a setting or URL that cannot be translated.
        """
        self.main = main
        self._tasks = AppTasks(self)
        #: Its tasks by their names.
        self.tasks = self._tasks.by_name
        #: The class of its tasks, for classes that derive from it.
        self.Task = Task
        #: Called with the app as ``sender``: when its settings are first used, and when all of its
        #: tasks are there.
        self.on_configure, self.on_after_configure = AppEvent(self), AppEvent(self)
        self.on_after_finalize = AppEvent(self)
        self._is_finalized = False
        #: With these, Celery gives it the tasks that are shared with all apps.
        self.finalized, self._finalize_mutex = True, RLock()
        self._discovery = Discovery()
        given = as_mapping(config_source, namespace)
        for name, value in (
            ("broker_url", broker),
            ("result_backend", backend),
            ("include", list(include or ()) or None),
            *(settings or {}).items(),
        ):
            if value is not None:
                given[name] = value
        self._settings = AppSettings(given, defaults or {}, file, self._tasks.warn_of_late)
        #: Its settings by Celery's names.
        self.conf = self._settings.conf
        self._sending = AppSending(self, self._settings, self.tasks)
        self.control = Control(self)
        self._settings.check()
        own_tasks.add_built_in(self)
        celerys_state.enter(self, as_current=set_as_current)
        if set_as_current:
            set_current_app(self)

    def __repr__(self) -> str:
        return f"<CeleryApp {self.main} {self.configuration.settings!r}>"

    @property
    def configuration(self) -> Configuration:
        """The settings of ``conf`` as the engine takes them.

        Raises:
            ConfigError: they cannot be translated.
        """
        return self._settings.configuration

    @property
    def is_eager(self) -> bool:
        """Whether tasks run in the process that sends them, at once.

        So they do in tests, and where the broker is in memory; but the run loop executes the steps
        that it has sent.
        """
        return self._settings.is_eager

    @property
    def propagates_eagerly(self) -> bool:
        """Whether the exceptions of tasks that run eagerly are raised where they are called."""
        return bool(self.conf.task_eager_propagates)

    @property
    def ignores_results(self) -> bool:
        """Whether the values of tasks are dropped, unless they or their callers say otherwise."""
        return bool(self.conf.task_ignore_result)

    @property
    def acknowledges_late(self) -> bool:
        """Whether ``Reject(requeue=True)`` puts tasks back, unless they say otherwise."""
        return bool(self.conf.task_acks_late)

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
        if self._tasks.broker is None:
            broker = self._tasks.broker = taskiq_app.make(self.configuration.settings)
            broker.schedule_sources.append(BeatSchedules(self))
            self._register_all(broker)
            if worker_settings() is not None:  # in the parent, no tasks of the project are loaded
                self.finalize()
        return self._tasks.broker

    @overload
    def task(self, function: F, /) -> Task: ...
    @overload
    def task(
        self,
        *,
        name: str | None = None,
        bind: bool = False,
        base: type[Task] | None = None,
        **options: Any,
    ) -> Callable[[Callable[..., Any]], Task]: ...

    def task(
        self,
        function: Callable[..., Any] | None = None,
        *,
        name: str | None = None,
        bind: bool = False,
        base: type[Task] | None = None,
        **options: Any,
    ) -> Any:
        """Make a task of a function; a decorator, with or without options.

        Args:
            function: what the task does.
            name: the task is sent and found by it; module and name of the function for ``None``.
            bind: whether the function gets the task itself as its first argument.
            base: its class, which derives from ``app.Task``.
            options: attributes of the task; see :class:`dagster_celery._celery_app.task.Task`.

        Returns:
            The task; a name that is taken keeps the task it has, as in Celery.

        Raises:
            ConfigError: an option that this project cannot keep, or a base class of another kind.
        """

        def make(original: Callable[..., Any]) -> Task:
            return self._made(original, name, base, bind, options)

        return make if function is None else make(function)

    def _made(
        self,
        function: Callable[..., Any],
        name: str | None,
        base: type[Task] | None,
        bind: bool,
        options: Mapping[str, Any],
    ) -> Task:
        known = name or self.gen_task_name(function.__name__, function.__module__)
        return self._tasks.made(known, function, base, bind, options)

    def _task_from_fun(self, function: Callable[..., Any], **options: Any) -> Task | None:
        """Take a task that is shared with all apps (the method that Celery calls for that).

        One that cannot be served is warned of: it may be meant for another app in this process.
        """
        name, base, bind = (options.pop(each, None) for each in ("name", "base", "bind"))
        try:
            return self._made(function, name, base, bool(bind), options)
        except ConfigError as error:
            known = name or self.gen_task_name(function.__name__, function.__module__)
            warn_of_loss(f"The shared task {known} is not served here: {error}")
            return None

    def gen_task_name(self, name: str, module: str) -> str:
        """Return the name of the task of a function."""
        return f"{module}.{name}"

    def register_task(self, task: Task | type[Task], **_: Any) -> Task:
        """Add a task that is defined as a class.

        Args:
            task: the class, or an instance of it.

        Returns:
            The instance.

        Raises:
            ConfigError: it does not derive from ``app.Task``.
        """
        own_tasks.base_class(task if isinstance(task, type) else type(task))
        made = task() if isinstance(task, type) else task
        made.name = made.name or self.gen_task_name(type(made).__name__, type(made).__module__)
        self._tasks.add(made.bind(self))
        return made

    def annotate(self, task: AppTask) -> None:
        """Give a task the attributes that ``task_annotations`` have for it.

        Raises:
            ConfigError: that setting cannot be used.
        """
        self._tasks.annotate(task, self.conf.task_annotations)

    def signature(self, *args: Any, **kwargs: Any) -> Any:
        """Return a signature of a task, its name, or a dictionary of the form of one."""
        return signature(*args, app=self, **kwargs)

    #: The same as ``signature`` (Celery's older name).
    subtask = signature

    def send_task(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> AsyncResult | EagerResult:
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
        kept = checked(options)
        if self._settings.is_in_memory and name in self.tasks:
            with in_tests.sending():
                return self.tasks[name].apply(args, kwargs, **kept)
        return self._sending.send(name, args or (), kwargs or {}, kept)

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
        return self._sending.request(name, args, kwargs, options)

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
        return self._sending.queue_for(name, options)

    def AsyncResult(
        self, task_id: str, *_: Any, parent: AnyResult | None = None, **__: Any
    ) -> AsyncResult:
        """Return the result of a task that was sent before, by any process."""
        return AsyncResult(task_id, self, parent)

    def GroupResult(
        self, id: str, results: Sequence[AnyResult], parent: AnyResult | None = None, **_: Any
    ) -> GroupResult:
        """Return the result of a group of tasks that were sent before."""
        return GroupResult(id, results, parent)

    def config_from_object(
        self, source: Any, silent: bool = False, force: bool = False, namespace: str = ""
    ) -> None:
        """Add settings to ``conf``.

        Args:
            source: a mapping, an object with settings as attributes, or the name of such, in the
                form ``module``, ``module.name`` or ``module:name``.
            silent: whether a module that is not there is ignored.
            force: has no effect: settings are read when they are needed.
            namespace: what the names of the settings begin with there, such as ``CELERY`` for
                ``CELERY_BROKER_URL``; others are ignored then.

        Raises:
            ImportError: there is no such module, unless ``silent``.
            ConfigError: a setting or URL that cannot be translated.
        """
        del force
        self._settings.add(source, namespace, silent=silent)

    def config_from_envvar(
        self, variable_name: str, silent: bool = False, force: bool = False
    ) -> None:
        """Add settings to ``conf`` from the module that an environment variable names.

        Args:
            variable_name: the variable.
            silent: whether it is ignored that it is not set, or that there is no such module.
            force: has no effect: settings are read when they are needed.

        Raises:
            ConfigError: the variable is not set, unless ``silent``.
            ImportError: there is no such module, unless ``silent``.
        """
        del force
        self._settings.add_from_variable(variable_name, silent=silent)

    def autodiscover_tasks(
        self,
        packages: Packages = None,
        related_name: str | None = "tasks",
        force: bool = False,
    ) -> None:
        """Have workers import a module of tasks of each package, where there is one.

        Args:
            packages: names of packages; or a function that returns them, called when they are
                needed.
            related_name: the name of the module in each; ``None`` for the package itself.
            force: whether they are imported at once, in any process.

        Raises:
            ConfigError: no packages are named.
        """
        if packages is None:
            raise ConfigError(
                "autodiscover_tasks() has to be told the packages here: write "
                "`app.autodiscover_tasks(lambda: settings.INSTALLED_APPS)`, or a list of them."
            )
        self._discovery.add(packages, related_name)
        if force or self._is_finalized:
            self._discovery.import_all()

    def finalize(self, auto: bool = False) -> None:
        """Import the modules that were discovered, and call what waits for that.

        Args:
            auto: has no effect (Celery's own argument).
        """
        del auto
        if self._is_finalized:
            return
        self._is_finalized = True
        self.on_configure.send()
        self.on_after_configure.send()
        send_signal("import_modules", self)
        self._discovery.import_all()
        self.on_after_finalize.send()
        if worker_settings() is not None:
            processes.warn_once_a_worker()

    def set_current(self) -> None:
        """Make it the app of shared tasks, and of signatures that name none."""
        set_current_app(self)
        celerys_state.become_current(self)

    #: The same as ``set_current`` (Celery's own method).
    set_default = set_current

    def now(self) -> datetime:
        """Return the time in the time zone of the setting ``timezone``."""
        zone = self.conf.timezone
        return datetime.now(ZoneInfo(str(zone)) if zone else timezone.utc)

    @property
    def current_task(self) -> Task | None:
        """The task that runs now."""
        return self.tasks.get(current_request().task)

    #: The same as ``current_task`` (Celery's own attribute).
    current_worker_task = current_task

    def close(self) -> None:
        """Do nothing: connections are closed when the process ends (Celery's method)."""

    @property
    def user_options(self) -> NoReturn:
        """Refuse the command ``celery -A``, which reads this of its app before it does anything.

        Raises:
            click.ClickException: always; it names the command to run instead.
        """
        raise celery_command_refused()

    #: What groups and chords of Celery's own ask for.
    producer_or_acquire = staticmethod(producer_or_acquire)

    @property
    def backend(self) -> Backend:
        """What chords of Celery's own ask for."""
        return Backend(self)

    def worker_main(self, argv: Sequence[str] | None = None) -> NoReturn:
        """Refuse to start a worker in this way.

        Raises:
            ConfigError: always; it names the command to run instead.
        """
        del argv
        raise ConfigError("Start a worker by `dagster-celery worker start -A MODULE -y FILE`.")

    #: The same as ``worker_main`` (Celery's own method).
    start = worker_main

    def _register_all(self, broker: QueueBroker) -> None:
        self._tasks.register_all(broker)

    # Hidden from type checkers: they are to report an attribute that is not here.
    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            raise absent("Celery's app", name)
