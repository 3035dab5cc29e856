"""A project's own app of Celery's, taken over: its settings, its tasks, and what it sends.

``create_task(app)`` of dagster-celery takes any app of Celery's. Here, such an app has an app of
this package that stands for it: workers serve that one, and what Celery's tasks send goes there.
"""

import inspect
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any
from weakref import WeakKeyDictionary

from dagster_celery._celery_app.app import CeleryApp
from dagster_celery._celery_app.celery_command import celery_command_refused
from dagster_celery._celery_app.celerys_canvas import Backend
from dagster_celery._celery_app.current_app import has_current_app, set_current_app
from dagster_celery._celery_app.results import AsyncResult, EagerResult
from dagster_celery._celery_app.task import Task, task_of
from dagster_celery._celery_app.task_options import LOST, OF_A_CALL, OF_A_TASK, WITHOUT_EFFECT
from dagster_celery._warnings import warn_of_loss
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.transport.broker import QueueBroker

#: The hooks of Celery's tasks.
_HOOKS = ("before_start", "on_success", "on_failure", "on_retry", "after_return")
#: What Celery's own ``apply_async`` passes on, and is of no use here.
_OF_CELERYS = ("producer", "result_cls", "retry", "route_name", "serializer", "shadow", "task_type")
#: The options of a task that are taken over.
_TAKEN = frozenset({*OF_A_CALL, *OF_A_TASK, *WITHOUT_EFFECT, *LOST}) - {
    "abstract",
    "name",
    "bind",
    "retry",
}

_adopted: "WeakKeyDictionary[Any, AdoptedApp]" = WeakKeyDictionary()


def is_celerys(app: object) -> bool:
    """Return whether an object is an app of Celery's own."""
    return any(
        (each.__module__, each.__name__) == ("celery.app.base", "Celery")
        for each in type(app).__mro__
    )


def served(app: Any) -> CeleryApp:
    """Return the app that workers serve: the given one, or the one that stands for it.

    Args:
        app: one of this package, or of Celery's own. That of Celery's sends what it sends to the
            broker of the other one from now on.

    Raises:
        ConfigError: it is neither; or its settings cannot be translated.
    """
    if isinstance(app, CeleryApp):
        return app
    if not is_celerys(app):
        raise ConfigError(
            f"{app!r} is no app. Make it by `app = make_app()`, with dagster_celery.make_app."
        )
    if app not in _adopted:
        _adopted[app] = AdoptedApp(app)
    return _adopted[app]


class AdoptedApp(CeleryApp):
    """Stands for an app of Celery's own."""

    def __init__(self, celerys: Any) -> None:
        """Take over an app.

        Args:
            celerys: the app of Celery's.

        Raises:
            ConfigError: a setting or URL that cannot be translated.
        """
        self._celerys = celerys
        defaults: Mapping[str, Any] = import_module("celery.app.defaults").DEFAULTS
        known = {name: celerys.conf.get(name) for name in defaults}
        given = {name: value for name, value in known.items() if value != defaults[name]}
        given.setdefault("task_default_queue", celerys.conf.task_default_queue)
        super().__init__(main=celerys.main or "celery", config_source=given, set_as_current=False)
        if not has_current_app():
            set_current_app(self)  # for results and signatures that come without their app
        self.Task = celerys.Task
        celerys.send_task = self._send_for_celery
        celerys.AsyncResult, celerys.GroupResult = self.AsyncResult, self.GroupResult
        celerys.control, celerys.producer_or_acquire = self.control, self.producer_or_acquire
        celerys._backend = _Backend(self, celerys)  # what its property of this name returns
        celerys.user_options = _Refusing()

    def finalize(self, auto: bool = False) -> None:
        """Import what Celery's own workers and beat do, and take over what that has added."""
        if not self._is_finalized:
            self._celerys.loader.import_default_modules()
            self._celerys.finalize()
            self.conf.beat_schedule = dict(self._celerys.conf.beat_schedule or {})
            if self._tasks.broker is not None:
                self._register_all(self._tasks.broker)
        super().finalize(auto)

    def annotate(self, task: object) -> None:
        """Do nothing: Celery has set the attributes of its tasks."""

    def _send_for_celery(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *positional: Any,
        **options: Any,
    ) -> AsyncResult | EagerResult:
        """Send a task, as Celery's own tasks have their app do it."""
        names = ("countdown", "eta", "task_id")
        options.update(zip(names, positional, strict=False))
        kept = {each: value for each, value in options.items() if each not in _OF_CELERYS}
        return self.send_task(name, args, kwargs, **kept)

    def _register_all(self, broker: QueueBroker) -> None:
        for name, task in self._celerys.tasks.items():
            if not name.startswith("celery.") and name not in self.tasks:
                self.tasks[name] = _taken_over(self, name, task)
        super()._register_all(broker)


class _Backend(Backend):
    """The result backend of an app of Celery's own; what runs eagerly there uses its real one."""

    def __init__(self, app: CeleryApp, celerys: Any) -> None:
        super().__init__(app)
        self._celerys = celerys

    def __getattr__(self, name: str) -> Any:
        return getattr(self._celerys._get_backend(), name)


class _Refusing(dict[str, Any]):
    """The options of ``celery -A``, which that reads before it does anything."""

    def __missing__(self, key: str) -> Any:
        raise celery_command_refused()

    def get(self, key: str, default: Any = None) -> Any:
        """Refuse the command."""
        raise celery_command_refused()


def _taken_over(app: AdoptedApp, name: str, task: Any) -> Task:
    """Return a task of an app that does what a task of Celery's own does."""
    kind = type(task)
    run = inspect.getattr_static(kind, "run")
    is_bound = not isinstance(run, staticmethod)
    if "__call__" in {
        each for base in kind.__mro__ if not _is_of_celery(base) for each in vars(base)
    }:
        warn_of_loss(
            f"the method __call__ of the class of the task {name} is not called here: let the "
            "class derive from app.Task of an app of dagster_celery.make_app."
        )
    own = {each: getattr(task, each) for each in _TAKEN if hasattr(task, each)}
    options = {
        each: value
        for each, value in own.items()
        if value is not None or each == "max_retries"  # for which it means: without end
    }
    return task_of(
        app, run if is_bound else run.__func__, name, _class_for(task), is_bound, options
    )


def _is_of_celery(base: type) -> bool:
    return base.__module__.partition(".")[0] in ("celery", "builtins")


def _class_for(task: Any) -> type[Task]:
    """Return a class whose hooks, and whatever else it has of its own, are those of a task."""

    def other(_: Task, name: str) -> Any:
        return getattr(task, name)

    members: dict[str, Any] = {"__getattr__": other}
    for hook in _HOOKS:
        members[hook] = staticmethod(getattr(task, hook))
    return type("TakenOver", (Task,), members)
