"""Firings: the times at which a schedule sends its task, and who sends it."""

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True)
class Firing:
    """One time at which a schedule is due. All schedulers have the same one, whatever their clocks.

    Times are in seconds since the epoch.
    """

    #: The schedule. A one-off schedule that may be set again has another key for each time.
    key: str
    #: When it is due: the time that the schedule names, not that at which a scheduler noticed.
    due: float
    #: Seconds for which the server remembers that it was sent; 0 for ever.
    keep: float


class Claim(Enum):
    """Who sends a firing."""

    #: The scheduler that asks.
    MINE = "mine"
    #: Another scheduler, which has claimed it and not confirmed yet that it has sent it.
    OTHERS = "others"
    #: It was sent, or a later one of the schedule was.
    SENT = "sent"


#: Seconds within which the scheduler that has claimed a firing has to send it. Later, another one
#: may: the first has probably ended in between.
CLAIM_SECONDS = 10.0
