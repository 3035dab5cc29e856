"""The setting ``beat_schedule`` of an app, as a source for a scheduler of the engine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Protocol

from taskiq import ScheduleSource
from taskiq.scheduler.scheduled_task import ScheduledTask

from dagster_celery._celery_app.beat.times import when
from dagster_celery._celery_app.conf import Conf
from dagster_celery._configuration import Configuration
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.schedules.clock_changes import schedule_id_of, with_skipped
from dagster_taskiq.wire.task_request import TaskRequest


class PeriodicApp(Protocol):
    """What the schedules use of their app."""

    @property
    def conf(self) -> Conf:
        """The configuration, as the project has it."""

    @property
    def configuration(self) -> Configuration:
        """The settings as the engine takes them, and those that the app uses."""

    def finalize(self, auto: bool = False) -> None:
        """Call what waits for the app to be complete, and may add periodic tasks."""

    def request(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> TaskRequest:
        """Return the request for a call, with the options of the task and its route."""


@dataclass(frozen=True)
class PeriodicTask:
    """An entry of ``beat_schedule``."""

    task: str
    schedule: Any
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    relative: bool = False

    @classmethod
    def of(cls, key: str, entry: Mapping[str, Any]) -> "PeriodicTask":
        """Return an entry as it is written.

        Raises:
            ConfigError: it lacks its task or schedule, or has a field that Celery does not know.
        """
        known = {name: entry[name] for name in cls.__dataclass_fields__ if name in entry}
        for name in ("task", "schedule"):
            if known.get(name) is None:
                raise ConfigError(f'The entry {key!r} of beat_schedule has no "{name}".')
        unknown = entry.keys() - known.keys() - {"name"}
        if unknown:
            raise ConfigError(
                f"The entry {key!r} of beat_schedule has {sorted(unknown)[0]!r}, which is none of "
                f"{', '.join(cls.__dataclass_fields__)}."
            )
        given = {name: value for name, value in known.items() if value is not None}
        given["task"] = str(getattr(given["task"], "name", given["task"]))
        return cls(**given)


def periodic_entry(
    schedule: Any,
    signature: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    name: str | None,
    options: Mapping[str, Any],
) -> tuple[str, dict[str, Any]]:
    """Return the key and the entry of ``beat_schedule`` for a periodic task.

    Args:
        schedule: when it is due.
        signature: a signature of one task, or a task.
        args: arguments before those of the signature.
        kwargs: more arguments by name.
        name: the key; made from the signature for ``None``.
        options: options of the call, in addition to those of the signature.

    Raises:
        ConfigError: it is a signature of several tasks.
    """
    if getattr(signature, "kind", None) is not None:
        raise ConfigError(
            f"A {signature.kind} cannot be a periodic task here. Write a task that sends it, and "
            "let that be the periodic one."
        )
    is_signature = hasattr(signature, "immutable")
    task = signature.task if is_signature else signature
    if is_signature and not signature.immutable:
        args, kwargs = (*args, *signature.args), {**signature.kwargs, **kwargs}
    elif is_signature:
        args, kwargs = signature.args, signature.kwargs
    return name or repr(signature), {
        "task": str(getattr(task, "name", task)),
        "schedule": schedule,
        "args": tuple(args),
        "kwargs": dict(kwargs),
        "options": {**(signature.options if is_signature else {}), **options},
    }


class BeatSchedules(ScheduleSource):
    """The entries of ``beat_schedule``, and what ``add_periodic_task`` has added to it."""

    def __init__(self, app: PeriodicApp) -> None:
        self._app = app
        self._entries: dict[str, PeriodicTask] = {}
        self._schedules: list[ScheduledTask] = []

    async def startup(self) -> None:
        """Read the entries (taskiq's own hook).

        Raises:
            ConfigError: one of them cannot be served.
        """
        self._app.finalize()
        self._entries, self._schedules = {}, []
        settings = self._app.configuration.app
        # Those of ``conf`` count if it has any: a project may have added to them since.
        entries = self._app.conf.get("beat_schedule") or settings.get("beat_schedule") or {}
        for key, entry in entries.items():
            found = PeriodicTask.of(key, entry)
            schedule_id = f"beat:{key}"
            place = f"The entry {key!r} of beat_schedule"
            due = when(found.schedule, settings, place, relative=found.relative)
            # An option that is not served is refused, or warned of, now.
            self._app.request(found.task, found.args, found.kwargs, found.options)
            self._entries[schedule_id] = found
            self._schedules.append(
                ScheduledTask(
                    task_name=found.task,
                    labels={},
                    args=[],
                    kwargs={},
                    schedule_id=schedule_id,
                    **due,
                )
            )

    async def get_schedules(self) -> list[ScheduledTask]:
        """Return the entries (taskiq's own hook)."""
        return with_skipped(self._schedules, datetime.now(timezone.utc))

    def pre_send(self, task: ScheduledTask) -> None:
        """Give a firing what depends on its time and on the app (taskiq's own hook)."""
        entry = self._entries[schedule_id_of(task)]
        message = self._app.request(entry.task, entry.args, entry.kwargs, entry.options).message()
        task.args, task.kwargs, task.labels = message.args, message.kwargs, message.labels
