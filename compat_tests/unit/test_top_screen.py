"""The screen of ``top``: what it shows of a fleet, in terminals of every size."""

import io
from collections.abc import Sequence

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.screen import Screen

from dagster_taskiq.monitor.snapshot import (
    EndedView,
    FleetView,
    QueueView,
    RunningView,
    WorkerView,
)
from dagster_taskiq.monitor.top.screen import Size, draw, share_lines
from dagster_taskiq.monitor.top.sections import duration, size
from dagster_taskiq.monitor.top.state import SectionName, TopState
from dagster_taskiq.monitor.top.terminal import split_keys
from dagster_taskiq.wire.task_counts import EndedTask, Outcome

NOW = 1_000_000.0
HOSTILE = "x\x1b[2J\u202e[bold]\n<b>日本"


def queue(name: str, waiting: int = 0, workers: Sequence[str] = ("w0",)) -> QueueView:
    return QueueView(name, waiting, 0, 1, 0, 3.0, {5: waiting}, tuple(workers))


def worker(name: str, slots: int = 4, busy: int = 1, state: str = "busy") -> WorkerView:
    return WorkerView(
        *(name, name, "host", 1, "1.0", state, ("q",), slots, busy, 0, 10, 3 << 20, 100.0, 1.0),
        {"succeeded": 3, "failed": 2, "lost": 1},
    )


def running(step: str, worker: str = "w0", orchestrating: bool = False) -> RunningView:
    run = "0123456789ab"
    return RunningView("t", worker, "q", "task", "job", run, step, 7, NOW - 65, orchestrating, 0)


def ended(name: str, outcome: Outcome = Outcome.FAILED, ago: float = 5.0) -> EndedView:
    task = EndedTask("t", name, "q", outcome, NOW - ago - 2, NOW - ago, error=HOSTILE)
    return EndedView("w0", task)


def fleet(count: int = 1, trouble: str = "", at: float = NOW) -> FleetView:
    numbers = range(count)
    return FleetView(
        at=at,
        broker="redis://broker",
        backend="redis://backend",
        trouble=trouble,
        queues=tuple(queue(f"queue-{n:03}", n) for n in numbers),
        workers=tuple(worker(f"w{n}") for n in numbers),
        running=tuple(running(f"step-{n:03}") for n in numbers),
        ended=tuple(ended(f"ended-{n:03}", ago=n) for n in numbers),
        rejected=3,
    )


def lines(
    view: FleetView, state: TopState | None = None, width: int = 100, height: int = 30
) -> list[str]:
    """Return the lines of the screen, with its colours."""
    console = Console(
        file=io.StringIO(), width=width, height=height, force_terminal=True, color_system="standard"
    )
    drawn = draw(view, state or TopState(), Size(width, height), NOW)
    with console.capture() as capture:
        console.print(Screen(drawn), end="")
    return [line.rstrip("\r") for line in capture.get().split("\n")]


def plain(
    view: FleetView, state: TopState | None = None, width: int = 100, height: int = 30
) -> list[str]:
    """Return the lines of the screen, without colours."""
    console = Console(file=io.StringIO(), width=width, height=height)
    drawn = draw(view, state or TopState(), Size(width, height), NOW)
    with console.capture() as capture:
        console.print(Screen(drawn), end="")
    return [line.strip("\r") for line in capture.get().split("\n")]


def press(*keys: str) -> TopState:
    state = TopState()
    for each in keys:
        state.press(each)
    return state


def has(found: Sequence[str], text: str) -> str:
    """Return the one line with a text."""
    (line,) = [line for line in found if text in line]
    return line


@pytest.mark.parametrize("count", [0, 1, 3, 500])
@pytest.mark.parametrize("trouble", ["", "The broker does not answer. " * 20])
@pytest.mark.parametrize(
    ("width", "height"), [(80, 24), (200, 60), (40, 12), (79, 9), (20, 5), (5, 3), (1, 1)]
)
def test_a_screen_has_the_size_of_its_terminal(
    width: int, height: int, trouble: str, count: int
) -> None:
    for keys in ((), ("tab",), ("z",), ("?",), ("/", "x")):
        found = plain(fleet(count, trouble), press(*keys), width, height)
        assert len(found) == height
        assert max(map(cell_len, found)) <= width


def test_in_80_columns_and_24_lines_each_section_has_rows() -> None:
    found = plain(fleet(100), width=80, height=24)
    for title in ("Queues  100", "Workers  100", "Running  100", "Ended  100"):
        has(found, f" {title}")
    for text in ("queue-001", "w1 ", "step-001", "ended-001"):
        assert any(text in line for line in found), text
    assert "q quit" in found[-1]


def test_a_queue_that_nobody_serves_is_red_first_and_says_so() -> None:
    view = FleetView(
        *(NOW, "redis://", "redis://", ""),
        queues=(queue("a", 1), queue("b", 2, ()), queue("empty", 0, ())),
    )
    line = has(lines(view), "no worker serves it")
    assert "\x1b[1;31m" in line
    found = plain(view)
    assert found.index(has(found, " b ")) < found.index(has(found, " a "))
    assert "1 queue unserved" in found[1]


def test_slots_are_cells_by_what_is_in_them_and_numbers_where_there_are_many() -> None:
    view = FleetView(
        *(NOW, "redis://", "redis://", ""),
        workers=(worker("w0", 4, 2), worker("big", 64, 3), worker("gone", 2, 2, "lost")),
        running=(running("step"), running(""), running("", orchestrating=True)),
    )
    found = plain(view)
    has(found, "■■□□ 2/4")
    assert " 3/64" in has(found, " big ")
    assert "1 lost" in found[1]
    # A step is green, and a run blue.
    assert "\x1b[32m■\x1b[0m\x1b[34m■\x1b[0m\x1b[2m□□" in has(lines(view), "□")


def test_texts_of_others_are_shown_as_they_are_and_command_no_terminal() -> None:
    view = FleetView(
        *(NOW, "redis://", "redis://", ""),
        queues=(queue(HOSTILE),),
        workers=(worker(HOSTILE),),
        running=(running(HOSTILE, HOSTILE),),
        ended=(ended(HOSTILE),),
    )
    found = plain(view, width=200)
    assert not any(each in "".join(found) for each in ("\x1b[2J", "\u202e"))
    shown = r"x\x1b[2J\u202e[bold]\n<b>日本"
    assert sum(shown in line for line in found) == 4


def test_trouble_is_in_red_with_the_age_of_what_is_shown() -> None:
    found = lines(fleet(1, "The broker does not answer.", at=NOW - 90))
    line = has(found, "does not answer")
    assert "what is shown is 1m30s old" in line
    assert "\x1b[1;31m" in line
    assert "Connecting" in plain(FleetView(0.0, "redis://", "redis://", ""))[2]


def test_rows_are_filtered_sorted_reversed_and_scrolled() -> None:
    view = fleet(100)
    assert any("queue-042" in line for line in plain(view, press("/", *"UE-042", "enter")))
    assert not any("queue-041" in line for line in plain(view, press("/", *"UE-042", "enter")))
    by_waiting = plain(view, press("z", "s"))
    assert "by waiting" in by_waiting[2]
    assert "queue-099" in by_waiting[4]
    assert "queue-000" in plain(view, press("z", "s", "r"))[4]
    assert "queue-012" in plain(view, press("z", "page down", "j", "down"))[4]
    state = press("z", *["page down"] * 50)
    assert "queue-099" in plain(view, state)[-2]
    state.press("up")
    assert "queue-098" in plain(view, state)[-2]


def test_keys_choose_sections_and_escape_undoes() -> None:
    assert press("tab").section is SectionName.WORKERS
    assert press("back tab").section is SectionName.ENDED
    assert press("3").section is SectionName.RUNNING
    state = press("/", "q", "z", "backspace", "enter", "z")
    assert (state.filter, state.is_zoomed, state.has_quit) == ("q", True, False)
    state.press("escape")
    assert (state.filter, state.is_zoomed) == ("", False)
    assert press("/", "q", "escape").filter == ""
    assert press("p").is_paused
    assert press("q").has_quit
    assert press("").has_quit
    assert not press("?", "q").has_quit
    assert vars(press("unknown", "x")) == vars(press())


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("q", ["q"]),
        ("\x1b[A\x1bOBj", ["up", "down", "j"]),
        ("\x1b", ["escape"]),
        ("\x1b[5~\x1b[6~", ["page up", "page down"]),
        ("\t\x1b[Z\r\x7f", ["tab", "back tab", "enter", "backspace"]),
        ("\x1b[1;5C\x1b[200~x\x1bzy", ["x", "y"]),
        ("\x1b[", []),
        ("é日\x00\x01", ["é", "日"]),
    ],
)
def test_what_a_terminal_sends_is_read_as_keys(text: str, keys: list[str]) -> None:
    assert split_keys(text) == keys


def test_lines_are_shared_and_the_section_in_focus_gets_more() -> None:
    queues, workers, running_, ended_ = SectionName
    many = dict.fromkeys(SectionName, 50)
    given = share_lines(many, queues, 30)
    assert sum(given.values()) == 30
    assert given[queues] > given[workers] >= 3
    few = {queues: 3, workers: 3, running_: 1, ended_: 40}
    assert share_lines(few, queues, 30) == {queues: 3, workers: 3, running_: 1, ended_: 23}
    assert share_lines(many, workers, 7) == {workers: 7}
    assert share_lines(many, workers, 0) == {workers: 0}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0.0s"), (0.44, "0.4s"), (59.9, "59s"), (185, "3m05s"), (7260, "2h01m"), (1e5, "1d03h")],
)
def test_times_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_sizes_are_short() -> None:
    assert [size(each) for each in (0, 700, 5 << 10, 300 << 20, 7 << 30)] == [
        *("-", "700", "5K", "300M", "7G")
    ]
