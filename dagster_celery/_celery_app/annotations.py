"""``task_annotations``: attributes of tasks that the settings of their app have.

They are set when a task is used, and not when it is defined: settings may come later.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from dagster_celery._celery_app.conf import as_it_is
from dagster_celery._celery_app.task_options import warn_of_lost
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.wire.task_names import EXECUTE_JOB, EXECUTE_PLAN, RESUME_JOB

#: What belongs to Dagster, and takes its options from tags and from the worker.
_OF_DAGSTER = (EXECUTE_JOB, EXECUTE_PLAN, RESUME_JOB)


class Annotations:
    """The annotations of the tasks of one app."""

    def __init__(self) -> None:
        #: The annotations that each task has, by its name.
        self._set: dict[str, Any] = {}

    def apply(self, task: Any, setting: Any) -> None:
        """Set the attributes that a task is annotated with, unless it has them already.

        As in Celery, they are attributes of its class; the one for a name that begins with ``@`` is
        called with the method of that name, and returns the one to be used instead.

        Args:
            task: the task.
            setting: the value of ``task_annotations``: a mapping by names of tasks, of which ``*``
                stands for all; an object that has ``annotate(task)``; the name of a class of such;
                or a list of these.

        Raises:
            ConfigError: the setting names what cannot be imported, or is of another kind.
        """
        if task.name in _OF_DAGSTER or self._set.get(task.name) == setting:
            return
        self._set[task.name] = as_it_is(setting)
        kind = type(task)
        for found in _found(task, setting):
            warn_of_lost(found)
            for name, value in found.items():
                if not name.startswith("@"):
                    setattr(kind, name, value)
                    continue
                method = getattr(kind, name[1:])
                method = getattr(method, "__wrapped__", method)
                around = value(method)
                around.__wrapped__ = method
                setattr(kind, name[1:], around)


def _found(task: Any, setting: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the annotations of a task: its own of the first entry that has some, then for all."""
    if not setting:
        return
    given = setting if isinstance(setting, list | tuple) else [setting]
    entries = [_entry(each) for each in given]
    for method in ("annotate", "annotate_any"):
        for entry in entries:
            if isinstance(entry, Mapping):
                found = entry.get(task.name if method == "annotate" else "*")
            elif method == "annotate":
                found = entry.annotate(task)
            else:
                found = getattr(entry, "annotate_any", lambda: None)()
            if found:
                yield dict(found)
                break


def _entry(entry: Any) -> Any:
    """Return an entry of the setting as an object.

    Raises:
        ConfigError: it cannot be imported, or is of another kind.
    """
    if isinstance(entry, str):
        module, _, name = entry.replace(":", ".").rpartition(".")
        try:
            entry = getattr(import_module(module), name)()
        except (AttributeError, ImportError, ValueError) as error:
            raise ConfigError(
                f'The entry "{entry}" of task_annotations cannot be imported: {error}. Name a '
                "class as module.name."
            ) from error
    if not isinstance(entry, Mapping) and not hasattr(entry, "annotate"):
        raise ConfigError(
            "task_annotations must be a mapping by names of tasks, or an object with the method "
            f"annotate(), but it is {entry!r}."
        )
    return entry
