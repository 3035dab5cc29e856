"""The terminal, taken over: another screen, no line editing; given back whatever happens."""

import asyncio
import io
import os
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console, ConsoleDimensions, RenderableType
from rich.control import Control
from rich.screen import Screen

from dagster_taskiq.errors import ConfigError

#: What keys that are more than a character send, by terminals of the kind of xterm, with their
#: names here.
SEQUENCES = {
    "\x1b[A": "up",
    "\x1bOA": "up",
    "\x1b[B": "down",
    "\x1bOB": "down",
    "\x1b[5~": "page up",
    "\x1b[6~": "page down",
    "\x1b[H": "home",
    "\x1bOH": "home",
    "\x1b[F": "end",
    "\x1bOF": "end",
    "\x1b[Z": "back tab",
    "\t": "tab",
    "\r": "enter",
    "\n": "enter",
    "\x1b": "escape",
    "\x7f": "backspace",
    "\x08": "backspace",
}
#: What a terminal counts as that does not tell its size, in columns and lines.
_UNKNOWN_SIZE = (80, 24)
#: How much is read at once, in bytes. What is pasted comes in pieces.
_READ_BYTES = 1024


class Terminal:
    """Standard input and output, which have to be one terminal."""

    def __init__(self) -> None:
        """Change nothing yet.

        Raises:
            ConfigError: they are no terminal, or one that cannot move its cursor.
        """
        self._console = Console()
        is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
        if not is_terminal or not self._console.is_terminal or self._console.is_dumb_terminal:
            raise ConfigError(
                "top needs a terminal that it can draw on. For a pipe or a log, use "
                "`dagster-taskiq status --watch`."
            )
        if isinstance(sys.stdout, io.TextIOWrapper):
            # Names may have characters that the encoding of this terminal has not.
            sys.stdout.reconfigure(errors="replace")
        self._input, self._output = sys.stdin.fileno(), sys.stdout.fileno()
        self._saved: list[Any] = termios.tcgetattr(self._input)

    @property
    def is_ascii(self) -> bool:
        """Whether it shows no other characters."""
        return self._console.options.ascii_only

    @property
    def size(self) -> tuple[int, int]:
        """Its columns and lines, as they are now, whatever $COLUMNS and $LINES say."""
        width, height = os.get_terminal_size(self._output)
        return (width, height) if width and height else _UNKNOWN_SIZE

    def draw(self, renderable: RenderableType) -> None:
        """Replace what it shows."""
        self._console.size = ConsoleDimensions(*self.size)
        self._console.control(Control.home())
        self._console.print(Screen(renderable), end="")

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Have it to ourselves while this is open."""
        try:
            self._take()
            yield
        finally:
            self._give_back()

    def suspend(self) -> None:
        """Give it back, and stop this process, as SIGTSTP (Ctrl-Z) asks for; go on at SIGCONT."""
        self._give_back()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._take()

    @contextmanager
    def keys(self, on_key: Callable[[str], None]) -> Iterator[None]:
        """Call a function with each key while this is open: a character, or a name of a key.

        If the terminal is closed, the function is called with "".
        """
        loop = asyncio.get_running_loop()

        def read() -> None:
            try:
                data = os.read(self._input, _READ_BYTES)
            except OSError:
                data = b""
            if not data:
                loop.remove_reader(self._input)
                on_key("")
            for key in split_keys(data.decode(errors="ignore")):
                on_key(key)

        loop.add_reader(self._input, read)
        try:
            yield
        finally:
            loop.remove_reader(self._input)

    def _take(self) -> None:
        # Not raw: Ctrl-C and Ctrl-Z are signals still.
        tty.setcbreak(self._input, termios.TCSANOW)
        self._console.set_alt_screen(True)
        self._console.show_cursor(False)

    def _give_back(self) -> None:
        with suppress(OSError):  # it was closed
            self._console.show_cursor(True)
            self._console.set_alt_screen(False)
        with suppress(termios.error):
            termios.tcsetattr(self._input, termios.TCSAFLUSH, self._saved)


def split_keys(text: str) -> list[str]:
    """Return the keys that have sent a text; those that are not known are left out."""
    keys = []
    while text:
        if text[0] != "\x1b":
            found = text[0]
        else:
            found = next((each for each in SEQUENCES if text.startswith(each)), "")
            if found == "\x1b" and len(text) > 1:
                found = _unknown_sequence(text)
        if found in SEQUENCES:
            keys.append(SEQUENCES[found])
        elif found.isprintable():
            keys.append(found)
        text = text[len(found) :]
    return keys


def _unknown_sequence(text: str) -> str:
    """Return the sequence that a text begins with: up to its last character, a letter or ``~``."""
    if text[1] not in "[O":
        return text[:2]
    for at, character in enumerate(text[2:], start=2):
        if character.isalpha() or character == "~":
            return text[: at + 1]
    return text
