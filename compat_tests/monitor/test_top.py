"""``dagster-taskiq top`` as its users see it: in a terminal, beside real workers."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.cells import cell_len

from compat_tests.checkout import ROOT
from compat_tests.sending import USER_TASKS, Sender, open_sender
from compat_tests.servers import RedisServer, own_redis
from compat_tests.waiting import eventually
from compat_tests.workers import WorkerProcess, running_worker
from dagster_taskiq.settings.settings import Settings

#: What a terminal is told besides texts.
CONTROLS = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
HOME = "\x1b[H"
SHOW_CURSOR, LEAVE_SCREEN = "\x1b[?25h", "\x1b[?1049l"


class Top:
    """``top`` in a terminal of its own."""

    def __init__(
        self, *arguments: str, width: int = 100, height: int = 30, **variables: str
    ) -> None:
        self._here, self._there = pty.openpty()
        self.resize(width, height)
        self.modes = termios.tcgetattr(self._there)
        self._output = ""
        # What a shell has exported does not follow the terminal's size.
        stale = {"COLUMNS": "33", "LINES": "11"}
        environment = {**os.environ, **stale, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dagster_taskiq", "top", *arguments],
            **dict.fromkeys(("stdin", "stdout", "stderr"), self._there),
            env={**environment, **variables},
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def resize(self, width: int, height: int) -> None:
        size = struct.pack("HHHH", height, width, 0, 0)
        fcntl.ioctl(self._here, termios.TIOCSWINSZ, size)

    def press(self, keys: str) -> None:
        os.write(self._here, keys.encode())

    @property
    def output(self) -> str:
        """All that it has written."""
        return self._output

    @property
    def styled(self) -> str:
        """Its last whole screen, with colours."""
        return self._output.split(HOME)[-2] if self._output.count(HOME) > 1 else ""

    @property
    def screen(self) -> list[str]:
        """The lines of its last whole screen."""
        return [line.rstrip("\r") for line in CONTROLS.sub("", self.styled).split("\n")]

    def line(self, text: str) -> str:
        """Wait for a line with a text, and return it."""
        return eventually(
            lambda: next((line for line in self.screen if text in line), ""),
            f"{text!r} is on the screen of top:\n" + "\n".join(self.screen),
        )

    def without(self, text: str) -> None:
        """Wait for a screen without a text."""
        eventually(lambda: self.screen != [""] and not any(text in line for line in self.screen))

    def has_given_back(self) -> bool:
        """Whether the terminal is as it was before."""
        after = self._output.rpartition(HOME)[2]
        is_left = SHOW_CURSOR in after and LEAVE_SCREEN in after
        return is_left and termios.tcgetattr(self._there) == self.modes

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._there)
        self._reader.join()
        os.close(self._here)

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._here, 65536)
            except OSError:  # the other end is closed
                return
            self._output += data.decode(errors="replace")


@contextmanager
def top(settings: Settings, width: int = 100, height: int = 30, **variables: str) -> Iterator[Top]:
    running = Top("--broker", settings.broker, width=width, height=height, **variables)
    try:
        yield running
    finally:
        running.close()


def ends(shown: Top, number: signal.Signals) -> None:
    """End it by a signal; the terminal is as before then."""
    shown.process.send_signal(number)
    assert shown.process.wait(30) == 0
    eventually(shown.has_given_back)
    assert "Traceback" not in shown.output


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with own_redis() as server:
        yield server


@pytest.fixture(scope="module")
def settings(server: RedisServer) -> Settings:
    return Settings(broker=server.url, lease=60.0)


@pytest.fixture(scope="module")
def worker(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    arguments = ("-i", USER_TASKS, "-q", "a", "-c", "2")
    directory = tmp_path_factory.mktemp("top")
    with running_worker(settings, directory, *arguments, name="w-one") as worker:
        yield worker


@pytest.fixture
def sender(settings: Settings) -> Iterator[Sender]:
    with open_sender(settings) as sender:
        yield sender


def test_what_starts_runs_and_ends_is_seen_live_and_q_gives_the_terminal_back(
    settings: Settings, worker: WorkerProcess, sender: Sender, tmp_path: Path
) -> None:
    started, go = tmp_path / "started", tmp_path / "go"
    with top(settings, width=80, height=24) as shown:
        assert "w-one" in shown.line("□□ 0/2")
        held = sender.send("hold", str(started), str(go), queue_name="a")
        assert "task" in shown.line(f"hold ({USER_TASKS})")
        assert "busy" in shown.line("■□ 1/2")
        sender.send("add", 1, 2, queue_name="nobody")
        assert "no worker serves it" in shown.line("nobody")
        red = next(line for line in shown.styled.split("\n") if "no worker serves it" in line)
        assert "\x1b[1;31m" in red
        assert "1 queue unserved" in shown.line("1 worker ")
        go.touch()
        sender.value(held)
        assert "hold" in shown.line("succeeded")
        fits = [len(shown.screen), max(map(cell_len, shown.screen))]
        assert fits <= [24, 80]
        shown.press("q")
        assert shown.process.wait(30) == 0
        eventually(shown.has_given_back)


def test_keys_filter_zoom_sort_and_pause(
    settings: Settings, worker: WorkerProcess, sender: Sender
) -> None:
    for queue, count in (("few", 1), ("many", 3)):
        for _ in range(count):
            sender.send("add", 1, 2, queue_name=queue)
    with top(settings) as shown:
        shown.line("many")
        shown.press("/many\r")
        shown.line("filter: many")
        shown.without("few")
        shown.press("\x1b")
        shown.line("few")
        shown.press("2z")
        shown.line("w-one")
        shown.without("many")
        shown.press("z1s")
        shown.line("by waiting")
        first = [line.split()[0] for line in shown.screen if " no worker serves it" in line]
        assert first.index("many") < first.index("few")
        shown.press("p")
        shown.line("PAUSED")
        sender.send("add", 1, 2, queue_name="later")
        shown.press("p")
        shown.line("later")
        shown.press("?")
        shown.line("quit (Ctrl-C does so too)")


def test_a_server_that_goes_away_is_named_until_it_is_back(
    settings: Settings, worker: WorkerProcess, server: RedisServer
) -> None:
    with top(settings, width=80) as shown:
        shown.line("w-one")
        server.stop()
        try:
            shown.line("does not answer")
            # What was known last is still there.
            assert "w-one" in shown.line("w-one")
        finally:
            server.start()
        shown.without("does not answer")
        shown.line("w-one")
        assert shown.process.poll() is None


def test_the_screen_follows_the_size_of_the_terminal_and_ctrl_c_gives_it_back(
    settings: Settings, worker: WorkerProcess
) -> None:
    with top(settings, width=120, height=40) as shown:
        shown.line("w-one")
        eventually(lambda: len(shown.screen) == 40)
        for width, height in ((80, 24), (40, 8), (3, 2)):
            shown.resize(width, height)
            shown.process.send_signal(signal.SIGWINCH)
            eventually(lambda height=height: len(shown.screen) == height)
            assert max(map(cell_len, shown.screen)) <= width
        ends(shown, signal.SIGINT)


def test_a_terminal_without_unicode_shows_what_it_can(
    settings: Settings, worker: WorkerProcess, sender: Sender
) -> None:
    sender.send("add", 1, 2, queue_name="日本")
    with top(settings, PYTHONIOENCODING="latin-1") as shown:
        assert "w-one" in shown.line(".. 0/2")
        assert "no worker serves it" in shown.line("?? ")


def test_while_it_is_stopped_the_terminal_is_as_before(
    settings: Settings, worker: WorkerProcess
) -> None:
    with top(settings) as shown:
        shown.line("w-one")
        process = psutil.Process(shown.process.pid)
        shown.process.send_signal(signal.SIGTSTP)
        eventually(lambda: process.status() == psutil.STATUS_STOPPED)
        eventually(shown.has_given_back)
        shown.process.send_signal(signal.SIGCONT)
        eventually(lambda: not shown.has_given_back())
        shown.press("/there\r")
        shown.line("filter: there")
        ends(shown, signal.SIGHUP)


@pytest.mark.parametrize(
    ("pipes", "environment"),
    [
        ({"stdin": subprocess.DEVNULL}, {}),
        ({"stdout": subprocess.PIPE}, {}),
        ({}, {"TERM": "dumb"}),
    ],
    ids=["no input", "a pipe", "a dumb terminal"],
)
def test_without_a_terminal_it_names_what_to_use_instead(
    pipes: Mapping[str, Any], environment: Mapping[str, str]
) -> None:
    here, there = pty.openpty()
    ends = {"stdin": there, "stdout": there, "stderr": subprocess.PIPE, **pipes}
    done = subprocess.run(
        [sys.executable, "-m", "dagster_taskiq", "top", "-b", "redis://127.0.0.1:1"],
        **ends,
        env={**os.environ, "TERM": "xterm", **environment},
        check=False,
        cwd=ROOT,
    )
    os.close(there)
    os.close(here)
    assert done.returncode == 2
    assert b"`dagster-taskiq status --watch`" in done.stderr
    assert not done.stdout
