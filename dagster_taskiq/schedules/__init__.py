"""Schedules of users' own tasks, on taskiq's scheduler.

``taskiq scheduler dagster_taskiq.app:scheduler`` and ``dagster-taskiq scheduler start`` run the one
that a project needs. A project that makes its own writes::

    from dagster_taskiq.app import broker
    from dagster_taskiq.schedules import LabelSchedules, Scheduler, StoredSchedules

    scheduler = Scheduler(broker, [LabelSchedules(broker), StoredSchedules(broker)])

Several may run at once: each firing is sent by one of them.
"""

from dagster_taskiq.schedules.label_schedules import LabelSchedules
from dagster_taskiq.schedules.scheduler import Scheduler
from dagster_taskiq.schedules.stored_schedules import StoredSchedules

__all__ = ["LabelSchedules", "Scheduler", "StoredSchedules"]
