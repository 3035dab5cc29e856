"""The tasks of one app: made of functions and classes, annotated, and registered for a worker.

``app`` has one of these, and adds each task that a project defines. It calls ``task``, which has
the tasks themselves, and ``own_tasks``, which puts them on the broker of a worker.
"""

from collections.abc import Callable, Mapping
from typing import Any

from dagster_celery._celery_app import own_tasks
from dagster_celery._celery_app.annotations import Annotations
from dagster_celery._celery_app.current_app import AppTask, SendingApp
from dagster_celery._celery_app.task import Task, task_of
from dagster_celery._celery_app.task_options import LOST
from dagster_celery._warnings import warn_of_loss
from dagster_taskiq.transport.broker import QueueBroker


class AppTasks:
    """The tasks of one app by their names."""

    def __init__(self, app: SendingApp) -> None:
        """Have none yet.

        Args:
            app: the app, which sends them.
        """
        self.by_name: dict[str, Task] = {}
        #: The broker that a worker in this process listens to: it gets those defined later, too.
        self.broker: QueueBroker | None = None
        self._app = app
        self._annotations = Annotations()
        self._is_told_of_late = False

    def made(
        self,
        name: str,
        function: Callable[..., Any],
        base: type[Task] | None,
        bind: bool,
        options: Mapping[str, Any],
    ) -> Task:
        """Return the task of a name; if there is none, make it of a function.

        Raises:
            ConfigError: an option that this project cannot keep, or a base class of another kind.
        """
        if name not in self.by_name:
            kind = own_tasks.base_class(base)
            self.add(task_of(self._app, function, name, kind, bind, options))
        return self.by_name[name]

    def add(self, task: Task) -> None:
        """Add a task of this app, in place of one that has its name."""
        self.by_name[task.name] = task
        self.warn_of_late()
        if self.broker is not None:
            own_tasks.register(self.broker, task)

    def register_all(self, broker: QueueBroker) -> None:
        """Register all tasks on a broker."""
        for task in self.by_name.values():
            own_tasks.register(broker, task)

    def annotate(self, task: AppTask, annotations: Any) -> None:
        """Give a task the attributes that are set for it.

        Args:
            task: the task.
            annotations: the setting ``task_annotations``.

        Raises:
            ConfigError: that setting cannot be used.
        """
        self._annotations.apply(task, annotations)

    def warn_of_late(self) -> None:
        """Warn, where the project has tasks, of what the setting ``task_acks_late`` asks for."""
        has_own = any(own_tasks.is_own(name) for name in self.by_name)
        if self._is_told_of_late or not self._app.acknowledges_late or not has_own:
            return
        self._is_told_of_late = True
        warn_of_loss(
            f"task_acks_late has no effect on tasks of your own here: {LOST['acks_late']}."
        )
