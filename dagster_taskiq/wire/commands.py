"""The commands that a worker obeys, as they are sent."""

from enum import Enum
from typing import Any


class Command(str, Enum):
    """The commands, by their names on the wire."""

    #: Stop one task: at once by force, or after some seconds, where it says so.
    REVOKE = "revoke"
    #: Finish what runs, take nothing new, end.
    DRAIN = "drain"
    #: Stop what runs and end.
    KILL = "kill"


def command(name: Command, **arguments: Any) -> dict[str, Any]:
    """Return a command as the body of a mail."""
    return {"command": name.value, **arguments}
