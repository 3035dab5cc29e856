"""Whether a run loop of dagster-celery goes on, by what it writes into the log of its run."""

import os
import re
import socket
import time
from pathlib import Path

from dagster import DagsterEventType, DagsterInstance, EventLogEntry

from dagster_celery._upgrade.step_events import SENT_STEP, STEP_BEGINS, STEP_ENDS

#: How many entries of a log are read at once.
_PAGE = 1000
#: The process that has sent a message, as Celery names it in the message's headers.
_ORIGIN = re.compile(r"gen(?P<pid>\d+)@(?P<host>.+)")


class RunWatch:
    """The log of one run, read on from where it was read before."""

    def __init__(self, instance: DagsterInstance, run_id: str) -> None:
        """Read what there is.

        Args:
            instance: where the run is.
            run_id: the run.
        """
        self._instance = instance
        self._run_id = run_id
        self._cursor: str | None = None
        self._retry_at = 0.0
        #: The queues that steps were sent to.
        self.queues: set[str] = set()
        #: The steps that were sent or have begun, and have not ended; and whether they have begun.
        self.open_steps: dict[str, bool] = {}
        self.look()
        self._quiet_since = time.monotonic()

    @property
    def quiet_seconds(self) -> float:
        """For how long nothing has been written, in seconds."""
        return time.monotonic() - self._quiet_since

    def restart(self) -> None:
        """Count the time from now on."""
        self._quiet_since = time.monotonic()

    def look(self) -> bool:
        """Read on; return whether something has been written since."""
        is_news = False
        while True:
            page = self._instance.get_records_for_run(self._run_id, self._cursor, limit=_PAGE)
            for record in page.records:
                self._note(record.event_log_entry)
            self._cursor = page.cursor or self._cursor
            is_news = is_news or bool(page.records)
            if not page.has_more:
                break
        if is_news:
            self.restart()
        return is_news

    def is_held(self) -> bool:
        """Return whether a loop has a reason to send nothing: a retry's delay, or a full pool."""
        if self._retry_at > time.time():
            return True
        storage = self._instance.event_log_storage
        if not storage.supports_global_concurrency_limits:
            return False
        keys = storage.get_concurrency_keys()
        return any(
            each.run_id == self._run_id
            for key in keys
            for each in storage.get_concurrency_info(key).pending_steps
        )

    def _note(self, entry: EventLogEntry) -> None:
        event = entry.dagster_event
        if event is None:
            return
        if sent := SENT_STEP.search(event.message or ""):
            self.queues.add(sent["queue"])
            self.open_steps[sent["step"]] = False
        elif event.step_key and event.event_type in STEP_BEGINS:
            self.open_steps[event.step_key] = True
        elif event.step_key and event.event_type in STEP_ENDS:
            self.open_steps.pop(event.step_key, None)
            if event.event_type is DagsterEventType.STEP_UP_FOR_RETRY:
                delay = event.step_retry_data.seconds_to_wait or 0.0
                self._retry_at = max(self._retry_at, entry.timestamp + delay)


def lives_here(origin: str) -> bool:
    """Return whether the process that has sent a message is one of this host, and lives.

    Args:
        origin: the process, as the headers of a message of Celery's name it.

    Returns:
        ``False`` also if it is of another host, or that is not known.
    """
    found = _ORIGIN.fullmatch(origin)
    if found is None or found["host"] != socket.gethostname():
        return False
    try:
        os.kill(int(found["pid"]), 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    try:
        stat = Path(f"/proc/{found['pid']}/stat").read_text()
    except OSError:
        return True
    return not stat.rpartition(")")[2].strip().startswith("Z")
