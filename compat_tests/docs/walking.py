"""A tutorial, carried out as a reader does it: its files written, its commands typed, in order.

Where that is done, the page says: "in a second terminal", "on the second machine"; it begins in the
first of each. What the commands of a ``sh`` block set holds for later blocks in the same terminal,
and in no other. A command that goes on until Ctrl-C has its terminal for itself: to type into it
then is an error of the page. Each is a terminal in truth (pty), so that programs print what one
sees. A ``text`` block is what is seen: its lines have to appear in one terminal, in this order,
other lines between them or not. What is another in each run (times, process ids, ids of runs, the
name of the host) stands for all of its form.

What one does on a web page ("press *Launch Run*") is done by the test that walks.
"""

import fcntl
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import distribution
from pathlib import Path

import psutil

from compat_tests.checkout import ROOT
from compat_tests.waiting import eventually

#: How wide the terminals are, in characters.
COLUMNS = 110
#: How long a command may take, and how long is waited for what it prints, in seconds.
PATIENCE = 120.0
#: Commands that go on until Ctrl-C.
LASTING = (
    *("dagster dev", "dagster-webserver", "dagster-daemon run"),
    *("dagster-taskiq worker start", "dagster-celery worker start", "dagster-taskiq monitor"),
)
#: Variables of whoever runs the tests, which a reader has not.
_NOT_MINE = ("DAGSTER", "CELERY", "PG", "VIRTUAL_ENV", "PYTHONPATH", "BROKER", "REPORT")

_BLOCK = r"^```(?P<language>\w+)\n(?P<block>.*?)^```$"
#: What a page has its reader do, and where, in its order.
_STEP = re.compile(
    rf"{_BLOCK}|\bin (?:a|the) (?P<terminal>first|second|third|fourth|fifth)\s+terminal\b"
    r"|\bon the (?P<machine>first|second)\s+machine\b|\bpress\s+\*(?P<button>[\w ]+)\*"
    r"|\bpress\s+Ctrl-C in the terminal of (?P<stopped>[\w -]+)",
    re.DOTALL | re.MULTILINE | re.IGNORECASE,
)
_FILE = re.compile(r"^# ([~\w./-]+\.\w+)\n")
_CONTROLS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")
#: What is another in each run, and what it may be; the first that fits counts.
_VARIABLE = (
    (r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",) * 2,
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+",) * 2,
    (r"\.\.\.", r".*"),
    (r"─+", r"─+"),
    (r"\bnorth-\d+", r"\S+-\d+"),
    (r"\bnorth\b", r"\S+"),
    (r"\b\d+\.\d+\.\d+\b", r"[\w.]+"),
    (r"\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{8}\b", r"[0-9a-f]{8}"),
    (r"\b\d+(?:\.\d+)? ?(?:s|min|m)\b(?: \d+ s\b)?", r"[\d.]+ ?(?:s|min|m)(?: [\d.]+ s)?"),
    (r"\b\d{4,}\b", r"\d+"),
    (r"\s+", r"[^\S\n]+"),
)
_ANY_VARIABLE = re.compile("|".join(f"({found})" for found, _ in _VARIABLE))


def pattern_of(line: str) -> str:
    """Return the regular expression for a line of a page that shows what a program prints."""
    parts = []
    at = 0
    for found in _ANY_VARIABLE.finditer(line):
        parts.append(re.escape(line[at : found.start()]))
        parts.append(next(new for old, new in _VARIABLE if re.fullmatch(old, found[0])))
        at = found.end()
    return "".join((*parts, re.escape(line[at:])))


class Terminal:
    """A terminal with a shell in it that executes a script.

    Args:
        script: what is typed.
        directory: where.
        environment: what is set.
        answers: what is typed where a program asks, by the beginning of the question.
    """

    def __init__(
        self,
        script: str,
        directory: Path,
        environment: Mapping[str, str],
        answers: Mapping[str, str],
    ) -> None:
        self.script = script
        self._answers = dict(answers)
        self._controller, program_side = pty.openpty()
        fcntl.ioctl(program_side, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
        self._read = bytearray()
        self.process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", "bash", "-ec", script],
            stdin=program_side,
            stdout=program_side,
            stderr=program_side,
            cwd=directory,
            env=dict(environment),
        )
        os.close(program_side)
        self._reader = threading.Thread(target=self._follow, daemon=True)
        self._reader.start()

    @property
    def output(self) -> str:
        """What has been printed, without colours."""
        return _CONTROLS.sub("", self._read.decode(errors="replace"))

    def shows(self, lines: str) -> bool:
        """Return whether lines have been printed, in this order."""
        at = 0
        printed = self.output
        for line in filter(str.strip, lines.splitlines()):
            found = re.compile(pattern_of(line.strip())).search(printed, at)
            if found is None:
                return False
            at = found.end()
        return True

    def wait(self) -> int:
        """Wait for its end, and until all that it printed has been read; return its exit code."""
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code

    def press_ctrl_c(self) -> None:
        """Interrupt what runs in it."""
        os.write(self._controller, b"\x03")

    def end(self) -> None:
        """End what runs in it, and all that this has started."""
        with suppress(psutil.NoSuchProcess):
            # The shell may have become the last command of its script.
            shell = psutil.Process(self.process.pid)
            family = [*shell.children(recursive=True), shell]
            for each in family:
                with suppress(psutil.NoSuchProcess):
                    each.send_signal(signal.SIGINT)
            psutil.wait_procs(family, 20)
            for each in family:
                with suppress(psutil.NoSuchProcess):
                    each.kill()
        self.process.wait(PATIENCE)

    def _follow(self) -> None:
        with suppress(OSError):  # EIO: nobody has the other side open
            while data := os.read(self._controller, 65536):
                self._read += data
                for question, answer in self._answers.items():
                    if question in data.decode(errors="replace"):
                        os.write(self._controller, f"{answer}\n".encode())
        os.close(self._controller)


class Shell:
    """What holds in a terminal between two commands: the directory, and what is set."""

    def __init__(self, home: Path, environment: Mapping[str, str]) -> None:
        self.directory = home
        self.environment = dict(environment)
        #: What runs in it until Ctrl-C.
        self.busy: Terminal | None = None


class Machine:
    """A machine of the reader's: a home directory, and terminals."""

    def __init__(self, home: Path) -> None:
        home.mkdir(exist_ok=True)
        self.home = home
        mine = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_MINE)}
        self._new = {**mine, "HOME": str(home), "PWD": str(home), "TERM": "xterm"}
        #: The directory of the project that pip has installed there; it is for all terminals.
        self.modules = ""
        self._shells: dict[str, Shell] = {}

    def shell(self, terminal: str) -> Shell:
        """Return the shell of a terminal; a new one where none of that name is open."""
        shell = self._shells.setdefault(terminal, Shell(self.home, self._new))
        shell.environment["PYTHONPATH"] = self.modules
        return shell

    def release(self, terminal: Terminal) -> None:
        """Let commands be typed into a terminal again, whose command has ended."""
        for shell in self._shells.values():
            if shell.busy is terminal:
                shell.busy = None


class Walk:
    """A walk through one page.

    Args:
        page: the tutorial.
        homes: the reader's home directory on the first machine, and that on the second.
        values: what the page has the reader replace by values of their own, and these.
        answers: what is typed where a program asks, by the beginning of the question.
    """

    def __init__(
        self,
        page: Path,
        homes: Sequence[Path],
        values: Mapping[str, str] | None = None,
        answers: Mapping[str, str] | None = None,
    ) -> None:
        headings = re.split(r"^## (.+)$", page.read_text(), flags=re.MULTILINE)
        self._sections = dict(zip(headings[1::2], headings[2::2], strict=True))
        self._values = dict(values or {})
        self._answers = dict(answers or {})
        self._machines = dict(zip(("first", "second"), map(Machine, homes), strict=False))
        self._machine = self._machines["first"]
        self._terminal = "first"
        self._last: Terminal | None = None
        #: Those in which something runs until Ctrl-C.
        self.terminals: list[Terminal] = []

    def left(self) -> list[str]:
        """Return the headings of sections with something to do that have not been walked."""
        return [each for each, text in self._sections.items() if _STEP.search(text)]

    def section(self, heading: str, **buttons: Callable[[], object]) -> None:
        """Do what the section below a heading says, and check what it shows.

        Args:
            heading: of level two.
            buttons: what is done where the page has one press a button, by its first word.
        """
        self._last = None
        for step in _STEP.finditer(self._sections.pop(heading)):
            if step["terminal"]:
                self._terminal = step["terminal"].lower()
            elif step["machine"]:
                self._machine, self._terminal = self._machines[step["machine"].lower()], "first"
            elif step["button"]:
                buttons[step["button"].split()[0].lower()]()
                self._last = None
            elif step["stopped"]:
                self._press_ctrl_c(step["stopped"])
            else:
                self._do(step["language"], self._own(step["block"]))

    def skip(self, heading: str) -> None:
        """Take a section as done, whose work the test has done by other means."""
        del self._sections[heading]

    def _do(self, language: str, block: str) -> None:
        if file := _FILE.match(block):
            self._write(file[1], block)
        elif language == "sh":
            self._type(block)
        elif language == "text":
            self._expect(block)
        else:
            raise AssertionError(f"Nothing is known of a block of {language}:\n{block}")

    def end(self) -> None:
        """End all that still runs."""
        for terminal in reversed(self.terminals):
            terminal.end()

    def shown(self) -> str:
        """Return what is in all terminals."""
        return "\n".join(f"$ {each.script}\n{each.output}" for each in self.terminals)

    def _own(self, block: str) -> str:
        for theirs, mine in self._values.items():
            block = block.replace(theirs, mine)
        return block

    def _shell(self) -> Shell:
        return self._machine.shell(self._terminal)

    def _write(self, name: str, text: str) -> None:
        path = self._shell().directory / name.replace("~", str(self._machine.home), 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def _type(self, block: str) -> None:
        shell = self._shell()
        assert shell.busy is None, f"The {self._terminal} terminal runs {shell.busy.script}."
        lines = [self._line(each) for each in block.replace("\\\n", " ").splitlines()]
        state = self._machine.home / ".terminal"
        lasting = any(part in lines[-1] for part in LASTING)
        script = "\n".join(lines if lasting else [*lines, f"(pwd; env -0) > {state}"])
        self._last = terminal = Terminal(script, shell.directory, shell.environment, self._answers)
        if lasting:
            shell.busy = terminal
            self.terminals.append(terminal)
            return
        code = terminal.wait()
        assert code == 0, f"$ {block}{terminal.output}\n\n{self.shown()}"
        directory, _, variables = state.read_text().partition("\n")
        state.unlink()
        shell.directory = Path(directory)
        pairs = (each.partition("=") for each in variables.split("\0") if each)
        shell.environment = {name: value for name, _, value in pairs}
        self._machine.modules = shell.environment.get("PYTHONPATH", "")

    def _line(self, line: str) -> str:
        """Return what is executed for a line: the environment of the tests has been installed."""
        words = shlex.split(line, comments=True)
        if words[1:3] == ["-m", "venv"]:
            return f"ln -s {shlex.quote(sys.prefix)} {words[3]}"
        if words[:2] == ["git", "clone"]:
            return f"ln -s {shlex.quote(str(ROOT))} {words[3]}"
        if words[:2] == ["pip", "uninstall"]:
            return ":"
        if words[:1] == ["scp"]:
            # The user's home directory on the other machine, by its address.
            other = self._machines["first"].home
            return re.sub(r"^scp\b", "cp", re.sub(r"[\d.]+:(?=\w)", f"{other}/", line))
        if words[:2] == ["pip", "install"]:
            for each in words[2:]:
                if each == "-r" or each.endswith(".txt"):
                    continue
                if each != "." and not each.startswith("-"):
                    distribution(re.split(r"[\[<>=]", each)[0])  # raises where it is not there
            return 'export PYTHONPATH="$PWD/src"' if "." in words else ":"
        return line

    def _look_again(self) -> None:
        """Type the last command again where it shows what workers said a few seconds ago."""
        command = self._last.script.splitlines()[-2:-1] if self._last else []
        if command == ["dagster-taskiq status"]:
            self._type(command[0])

    def _press_ctrl_c(self, which: str) -> None:
        """Interrupt what runs in a terminal, which the page calls by the words of its command."""
        words = set(which.replace("the ", "").split())
        terminal = next(each for each in self.terminals if words & set(each.script.split()))
        terminal.press_ctrl_c()
        terminal.wait()
        for machine in self._machines.values():
            machine.release(terminal)
        self.terminals.remove(terminal)
        self._last = terminal

    def _expect(self, lines: str) -> None:
        """Check that something is shown by the last command, or by what goes on."""

        def is_shown() -> bool:
            last = [] if self._last is None else [self._last]
            if any(each.shows(lines) for each in (*last, *self.terminals)):
                return True
            self._look_again()
            return False

        try:
            eventually(is_shown, timeout=PATIENCE)
        except AssertionError:
            mine = "" if self._last is None else self._last.output
            raise AssertionError(f"Not shown:\n{lines}\nbut:\n{mine}\n\n{self.shown()}") from None


@contextmanager
def walking(
    page: Path,
    homes: Sequence[Path],
    values: Mapping[str, str] | None = None,
    answers: Mapping[str, str] | None = None,
) -> Iterator[Walk]:
    """Begin a walk, which has to come to the end of the page; end what it has started."""
    walk = Walk(page, homes, values, answers)
    try:
        yield walk
        assert walk.left() == []
    except BaseException:
        sys.stdout.write(walk.shown())  # pytest shows it
        raise
    finally:
        walk.end()
