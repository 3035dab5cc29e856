"""The four tables of ``top``: which columns they have, and what stands in them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rich.text import Text

from dagster_taskiq.monitor.snapshot import (
    EndedView,
    FleetView,
    QueueView,
    RunningView,
    WorkerView,
)
from dagster_taskiq.monitor.top.state import Chosen, SectionName
from dagster_taskiq.wire.safe_text import printable
from dagster_taskiq.wire.task_counts import Outcome

Row = TypeVar("Row")
Key = Callable[[Row, float], Any]

#: How many slots are drawn as cells; of a worker with more, only the numbers are.
MOST_CELLS = 16
#: Each number of bytes from which a size is shown in the next larger unit.
_UNITS = ((1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K"))

STATE_STYLES = {"lost": "bold red", "draining": "yellow", "busy": "green", "idle": "dim"}
OUTCOME_STYLES = {
    Outcome.SUCCEEDED: "green",
    Outcome.FAILED: "bold red",
    Outcome.LOST: "bold red",
    Outcome.REVOKED: "yellow",
    Outcome.RETRIED: "yellow",
    Outcome.HANDED_OVER: "dim",
}


@dataclass(frozen=True)
class Column(Generic[Row]):
    """A column of a section."""

    title: str
    #: What stands in it, given a row and the present time, in seconds since the epoch.
    cell: Callable[[Row, float], str | Text]
    #: From which width of the screen it is shown.
    from_width: int = 0
    is_number: bool = False
    #: What rows are ordered by when it is chosen; ``None``: it cannot be chosen.
    order: Key[Row] | None = None
    #: What it may take of the width that is left, beside the others.
    ratio: int | None = None


@dataclass(frozen=True)
class Section(Generic[Row]):
    """A table."""

    name: SectionName
    rows: Callable[[FleetView], Sequence[Row]]
    columns: Sequence[Column[Row]]
    #: The style of a row.
    style: Callable[[Row], str] = lambda _: ""

    def sorted_by(self, chosen: Chosen) -> Column[Row]:
        """Return the column by which rows are ordered."""
        columns = [each for each in self.columns if each.order is not None]
        return columns[chosen.sort % len(columns)]

    def rows_of(self, view: FleetView, chosen: Chosen, wanted: str, now: float) -> list[Row]:
        """Return the rows with a text, in the order that is chosen."""
        order = self.sorted_by(chosen).order or (lambda _row, _now: 0)
        rows = [each for each in self.rows(view) if self._has(each, wanted.casefold(), now)]
        return sorted(rows, key=lambda row: order(row, now), reverse=chosen.is_reversed)

    def cells(self, row: Row, now: float, width: int) -> list[Text]:
        """Return a row as texts, of the columns that are shown on a screen of this width."""
        return [
            _safe(column.cell(row, now)) for column in self.columns if column.from_width <= width
        ]

    def _has(self, row: Row, wanted: str, now: float) -> bool:
        return not wanted or any(
            wanted in _safe(column.cell(row, now)).plain.casefold() for column in self.columns
        )


def duration(seconds: float) -> str:
    """Return seconds as text of at most six characters, such as ``0.4s``, ``12s`` and ``3m05s``."""
    seconds = max(0.0, seconds)
    if seconds < 10:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    if not minutes:
        return f"{rest}s"
    hours, minutes = divmod(minutes, 60)
    if not hours:
        return f"{minutes}m{rest:02}s"
    days, hours = divmod(hours, 24)
    return f"{days}d{hours:02}h" if days else f"{hours}h{minutes:02}m"


def size(count: int) -> str:
    """Return a number of bytes as text; a hyphen for 0, which is not known."""
    for unit, letter in _UNITS:
        if count >= unit:
            return f"{count / unit:.0f}{letter}"
    return str(count) if count else "-"


def sections(view: FleetView, is_ascii: bool) -> Mapping[SectionName, Section[Any]]:
    """Return the tables.

    Args:
        view: where the slots of workers are looked up.
        is_ascii: whether the terminal shows no other characters.
    """
    running: dict[str, list[RunningView]] = {}
    for each in view.running:
        running.setdefault(each.worker, []).append(each)

    def cells(worker: WorkerView, _: float) -> Text:
        return slot_cells(worker, running.get(worker.name, []), is_ascii)

    workers = Section(
        SectionName.WORKERS,
        lambda view: view.workers,
        (
            Column[WorkerView](
                "worker", lambda row, _: row.name, order=lambda row, _: row.name, ratio=2
            ),
            Column("state", _state, order=lambda row, _: list(STATE_STYLES).index(row.state)),
            Column("slots", cells, order=lambda row, _: -row.busy_slots),
            Column("runs", lambda row, _: f"{row.runs}/{row.max_runs}", 90, is_number=True),
            Column(
                "memory",
                lambda row, _: size(row.memory),
                is_number=True,
                order=lambda row, _: -row.memory,
            ),
            Column(
                "ok",
                lambda row, _: str(row.ended.get(Outcome.SUCCEEDED.value, 0)),
                is_number=True,
                order=lambda row, _: -row.ended.get(Outcome.SUCCEEDED.value, 0),
            ),
            Column(
                "bad",
                lambda row, _: str(_bad(row)),
                is_number=True,
                order=lambda row, _: -_bad(row),
            ),
            Column(
                "seen",
                lambda row, _: duration(row.age),
                is_number=True,
                order=lambda row, _: -row.age,
            ),
            Column("up", lambda row, _: duration(row.uptime), 100, is_number=True),
            Column("queues", lambda row, _: ",".join(row.queues), 70, ratio=2),
            Column("host", lambda row, _: row.host, 110, ratio=1),
            Column("pid", lambda row, _: str(row.pid), 120, is_number=True),
            Column("release", lambda row, _: row.version, 140),
        ),
        style=lambda row: "red" if row.state == "lost" else "",
    )
    return {each.name: each for each in (_QUEUES, workers, _RUNNING, _ENDED)}


def slot_cells(worker: WorkerView, tasks: Sequence[RunningView], is_ascii: bool) -> Text:
    """Return the slots of a worker as cells, with their numbers.

    Steps and a user's own tasks are green, runs are blue; those of a worker that ends are yellow.
    """
    text = Text()
    if worker.slots <= MOST_CELLS:
        taken, free = ("#", ".") if is_ascii else ("■", "□")
        style = {"lost": "red", "draining": "yellow"}.get(worker.state)
        in_slots = [each for each in tasks if not each.orchestrating]
        runs = sum(bool(each.run_id and not each.step_key) for each in in_slots)
        runs = min(runs, worker.busy_slots)
        text.append(taken * (worker.busy_slots - runs), style or "green")
        text.append(taken * runs, style or "blue")
        text.append(free * (worker.slots - worker.busy_slots), style or "dim")
        text.append(" ")
    return text.append(f"{worker.busy_slots}/{worker.slots}")


def _state(worker: WorkerView, _: float) -> Text:
    return Text(worker.state, STATE_STYLES.get(worker.state, ""))


def _bad(worker: WorkerView) -> int:
    return sum(worker.ended.get(each.value, 0) for each in (Outcome.FAILED, Outcome.LOST))


def _served_by(queue: QueueView, _: float) -> str:
    if queue.workers:
        return f"{len(queue.workers)}: {', '.join(queue.workers)}"
    return "no worker serves it" if queue.is_unserved else "-"


def _priorities(queue: QueueView, _: float) -> str:
    levels = queue.priorities or {}
    return " ".join(f"{level}:{levels[level]}" for level in sorted(levels, reverse=True)) or "-"


def _name_of(row: RunningView) -> str:
    """Return what runs: the step, or the task."""
    return row.step_key or (row.job if row.run_id else _task_name(row.name))


def _kind_of(row: RunningView) -> str:
    if not row.run_id:
        return "task"
    if row.step_key:
        return f"try {row.attempt + 1}" if row.attempt else "step"
    return "run, waits" if row.orchestrating else "run"


def _ended_name(row: EndedView) -> str:
    task = row.task
    return task.step_key or (task.job if task.run_id else _task_name(task.name))


def _task_name(name: str) -> str:
    """Return the name of a user's own task with its function first: its end may be cut off."""
    module, _, function = name.rpartition(":")
    return f"{function} ({module})" if module else name


def _safe(cell: str | Text) -> Text:
    return cell if isinstance(cell, Text) else Text(printable(cell))


_QUEUES = Section(
    SectionName.QUEUES,
    lambda view: view.queues,
    (
        Column[QueueView](
            "queue",
            lambda row, _: row.name,
            order=lambda row, _: (not row.is_unserved, row.name),
            ratio=2,
        ),
        Column(
            "waiting",
            lambda row, _: str(row.waiting),
            is_number=True,
            order=lambda row, _: -row.waiting,
        ),
        Column("starting", lambda row, _: str(row.starting), 70, is_number=True),
        Column(
            "running",
            lambda row, _: str(row.running),
            is_number=True,
            order=lambda row, _: -row.running,
        ),
        Column("runs wait", lambda row, _: str(row.orchestrating), 90, is_number=True),
        Column(
            "oldest",
            lambda row, _: "-" if row.oldest_age is None else duration(row.oldest_age),
            is_number=True,
            order=lambda row, _: -(row.oldest_age or 0.0),
        ),
        Column("priority:waiting", _priorities, 110, ratio=1),
        Column("served by", _served_by, ratio=2),
    ),
    style=lambda row: "bold red" if row.is_unserved else "",
)

_RUNNING = Section(
    SectionName.RUNNING,
    lambda view: view.running,
    (
        Column[RunningView](
            "since",
            lambda row, now: duration(now - row.started_at),
            is_number=True,
            order=lambda row, _: row.started_at,
        ),
        Column("kind", lambda row, _: _kind_of(row), order=lambda row, _: _kind_of(row)),
        Column("name", lambda row, _: _name_of(row), order=lambda row, _: _name_of(row), ratio=3),
        Column("job", lambda row, _: row.job or "-", 90, order=lambda row, _: row.job, ratio=2),
        Column("run", lambda row, _: row.run_id[:8] or "-", 60),
        Column("queue", lambda row, _: row.queue, order=lambda row, _: row.queue, ratio=1),
        Column("worker", lambda row, _: row.worker, order=lambda row, _: row.worker, ratio=2),
        Column("pid", lambda row, _: str(row.pid or "-"), 100, is_number=True),
    ),
    style=lambda row: "dim" if row.orchestrating else "",
)

_ENDED = Section(
    SectionName.ENDED,
    lambda view: view.ended,
    (
        Column[EndedView](
            "ago",
            lambda row, now: duration(now - row.task.ended_at),
            is_number=True,
            order=lambda row, _: -row.task.ended_at,
        ),
        Column(
            "outcome",
            lambda row, _: Text(row.task.outcome.value, OUTCOME_STYLES[row.task.outcome]),
            order=lambda row, _: list(OUTCOME_STYLES).index(row.task.outcome),
        ),
        Column(
            "took",
            lambda row, _: duration(row.task.ended_at - row.task.started_at),
            is_number=True,
            order=lambda row, _: row.task.started_at - row.task.ended_at,
        ),
        Column(
            "name", lambda row, _: _ended_name(row), order=lambda row, _: _ended_name(row), ratio=3
        ),
        Column("job", lambda row, _: row.task.job or "-", 100, ratio=2),
        Column("run", lambda row, _: row.task.run_id[:8] or "-", 60),
        Column("worker", lambda row, _: row.worker, 70, order=lambda row, _: row.worker, ratio=2),
        Column("error", lambda row, _: row.task.error, 90, ratio=4),
    ),
)
