"""The gauges along the river. They are simulated, so that everybody gets the same numbers."""

import math
import random
from collections.abc import Iterator
from datetime import datetime, timedelta

#: The level above which there is a flood, for each station from the source down, in centimetres.
FLOOD_LEVELS = {"upford": 210, "millbridge": 260, "oxmead": 300, "eastport": 340}
#: How long the wave takes from one station to the next, in hours.
TRAVEL_HOURS = 9
#: The first hour of the week that is looked at, and how many hours it has.
FIRST_HOUR = datetime(2024, 6, 3)
HOURS = 7 * 24
#: The station whose line is busy when it is called for the first time.
BUSY = "oxmead"


class LineBusyError(Exception):
    """A station that does not answer now, and may in a moment."""


def call(station: str, attempt: int) -> list[float]:
    """Return the level of each hour of the week at a station, in centimetres.

    Args:
        station: one of ``FLOOD_LEVELS``.
        attempt: how often this station has been called before.

    Raises:
        LineBusyError: the station does not answer.
    """
    if station == BUSY and attempt == 0:
        raise LineBusyError(f"{station} does not answer")
    return list(_levels(station))


def hour(index: int) -> datetime:
    """Return the time of an hour of the week, counted from 0."""
    return FIRST_HOUR + timedelta(hours=index)


def _levels(station: str) -> Iterator[float]:
    place = list(FLOOD_LEVELS).index(station)
    noise = random.Random(station)
    crest = 60 + TRAVEL_HOURS * place
    for index in range(HOURS):
        wave = math.exp(-(((index - crest) / 18) ** 2))
        yield round(120 + 45 * place + 110 * wave + noise.uniform(-4, 4), 1)
