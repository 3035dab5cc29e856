"""The stations, as they would answer over the network."""

_DOCKS = {"north": "BB-B--", "south": "BBBBB-", "harbour": "------"}


class NoAnswerError(Exception):
    """A station did not answer. The next attempt may get through."""


def ask(station: str, attempt: int = 0) -> str:
    """Return the docks of a station: B for a bike. The harbour answers at the third attempt."""
    if station == "harbour" and attempt < 2:
        raise NoAnswerError(f"{station} does not answer")
    return _DOCKS[station]
