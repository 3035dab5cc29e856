"""Notifications, and the channels they are posted to."""

from dataclasses import dataclass
from typing import Any

#: About how many notifications a channel keeps. A notification is a hint to look at a record.
CHANNEL_LENGTH = 1000


@dataclass(frozen=True)
class Notification:
    """A message in a channel; reading after ``cursor`` returns those that came later."""

    cursor: str
    body: dict[str, Any]


#: The cursor before the first notification of a channel.
FROM_START = ""


#: The channel in which a worker that ends leaves its last record, as ``{"ended": worker.dumps()}``.
FLEET_CHANNEL = "fleet"


def run_channel(run_id: str) -> str:
    """Return the name of the channel that wakes the loop of a run."""
    return f"run:{run_id}"


def worker_channel(worker_id: str) -> str:
    """Return the name of the channel with the commands for a worker."""
    return f"worker:{worker_id}"
