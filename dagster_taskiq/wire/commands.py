"""The commands that a worker executes, and how they are sent."""

from enum import Enum
from typing import Any


class Command(str, Enum):
    """The commands, with their names on the wire."""

    #: Stop one task; its arguments may ask for SIGKILL at once, or for a delay in seconds.
    REVOKE = "revoke"
    #: Take no new tasks, finish those that run, end.
    DRAIN = "drain"
    #: Stop the tasks that run, and end.
    KILL = "kill"
    #: A monitor looks: for some seconds, send a heartbeat soon after each start and end of a task,
    #: with the tasks that have ended.
    WATCH = "watch"


def command(name: Command, **arguments: Any) -> dict[str, Any]:
    """Return a command as the body of a notification."""
    return {"command": name.value, **arguments}
