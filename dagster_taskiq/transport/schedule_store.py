"""Where the schedules that are made while a project runs are kept, and who sends each firing."""

from abc import ABC, abstractmethod

from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.urls import redact
from dagster_taskiq.wire.firings import Claim, Firing


class ScheduleStore(ABC):
    """What the server of a backend keeps for schedulers.

    Every method raises ``ServerUnavailableError`` if the server cannot serve now, and
    ``ConfigError`` if it will not before the configuration changes.
    """

    @abstractmethod
    async def put(self, schedule_id: str, body: str) -> None:
        """Keep a schedule, in place of the one with this id if there is one.

        Args:
            schedule_id: its id.
            body: the schedule, as JSON.
        """

    @abstractmethod
    async def delete(self, schedule_id: str) -> None:
        """Delete a schedule, if there is one with this id."""

    @abstractmethod
    async def bodies(self) -> list[str]:
        """Return all schedules, as JSON."""

    @abstractmethod
    async def claim(self, firing: Firing, claimant: str) -> Claim:
        """Claim a firing for one scheduler; of several that ask at once, one gets it.

        A claim ends when it is confirmed, or ``CLAIM_SECONDS`` after the last call of the
        scheduler that has it.

        Args:
            firing: the firing.
            claimant: the scheduler, by a name that no other one has.
        """

    @abstractmethod
    async def confirm(self, firing: Firing, claimant: str) -> None:
        """Record that a scheduler has sent a firing that it has claimed."""


def keeps_none(backend_url: str) -> ConfigError:
    """Return the error for a schedule that is made on a backend that keeps none."""
    return ConfigError(
        f"The backend {redact(backend_url)} keeps no schedules. Write the schedule into the code, "
        '@broker.task(schedule=[{"cron": ...}]), or choose a backend that keeps them, beside the '
        "same broker: PostgreSQL, Redis or SQLite (the setting `backend`)."
    )
