"""What the keys have chosen: which section, in which order, which rows."""

from dataclasses import dataclass, field
from enum import Enum


class SectionName(Enum):
    """The sections, in the order in which they stand."""

    QUEUES = "queues"
    WORKERS = "workers"
    RUNNING = "running"
    ENDED = "ended"


#: How many rows a key for a page moves.
PAGE_ROWS = 10


@dataclass
class Chosen:
    """What is chosen for one section."""

    #: Which of its columns its rows are ordered by, by its place among those that can be.
    sort: int = 0
    is_reversed: bool = False
    #: How many rows are above those that are shown.
    offset: int = 0


@dataclass
class TopState:
    """What is chosen."""

    section: SectionName = SectionName.QUEUES
    sections: dict[SectionName, Chosen] = field(
        default_factory=lambda: {each: Chosen() for each in SectionName}
    )
    #: Only this section is shown.
    is_zoomed: bool = False
    #: Rows without this text are not shown, in capitals or not.
    filter: str = ""
    #: The filter is being typed.
    is_typing: bool = False
    is_paused: bool = False
    shows_help: bool = False
    has_quit: bool = False

    @property
    def chosen(self) -> Chosen:
        """What is chosen for the section that has the focus."""
        return self.sections[self.section]

    def press(self, key: str) -> None:
        """Do what a key asks for: a character, or a name of ``terminal.SEQUENCES``.

        An empty one means that the terminal was closed.
        """
        if not key:
            self.has_quit = True
        elif self.is_typing:
            self._type(key)
        elif self.shows_help:
            self.shows_help = False
        else:
            self._command(key)

    def _type(self, key: str) -> None:
        if key == "enter":
            self.is_typing = False
        elif key == "escape":
            self.is_typing, self.filter = False, ""
        elif key == "backspace":
            self.filter = self.filter[:-1]
        elif len(key) == 1:
            self.filter += key

    def _command(self, key: str) -> None:
        names = list(SectionName)
        here = names.index(self.section)
        if key in _MOVES:
            self.chosen.offset = max(0, self.chosen.offset + _MOVES[key])
        elif key in _STEPS:
            self.section = names[(here + _STEPS[key]) % len(names)]
        elif key in _NUMBERS:
            self.section = names[int(key) - 1]
        elif key in _SORTS:
            self.chosen.sort += _SORTS[key]
        elif key in _SWITCHES:
            name = _SWITCHES[key]
            setattr(self, name, not getattr(self, name))
        elif key == "r":
            self.chosen.is_reversed = not self.chosen.is_reversed
        elif key == "home":
            self.chosen.offset = 0
        elif key == "escape":
            self.filter, self.is_zoomed = "", False


#: By how many rows each key moves, by how many sections, and by how many columns of the order.
_MOVES = {
    "up": -1,
    "k": -1,
    "down": 1,
    "j": 1,
    "page up": -PAGE_ROWS,
    "page down": PAGE_ROWS,
}
_STEPS = {"tab": 1, "back tab": -1}
_SORTS = {"s": 1, "S": -1}
_NUMBERS = ("1", "2", "3", "4")
#: What each key turns on and off.
_SWITCHES = {
    "q": "has_quit",
    "Q": "has_quit",
    "p": "is_paused",
    " ": "is_paused",
    "?": "shows_help",
    "h": "shows_help",
    "/": "is_typing",
    "z": "is_zoomed",
    "enter": "is_zoomed",
}
