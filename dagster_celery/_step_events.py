"""The order in which the events of a run are yielded."""

from collections.abc import Iterator
from itertools import chain

from dagster import DagsterEvent
from dagster._core.errors import DagsterExecutionInterruptedError

from dagster_taskiq.runs.event_tail import ends_step


def by_step(events: Iterator[DagsterEvent]) -> Iterator[DagsterEvent]:
    """Hold back the events of a step until it has ended, as dagster-celery does.

    A program that reads a run's events while the run goes on may rely on it: when it sees that a
    step has started, the step has ended.

    Args:
        events: the run's events, in the order of the event log.

    Yields:
        The same events; those of each attempt at a step together.

    Raises:
        DagsterExecutionInterruptedError: ``events`` has raised it; what was held back is yielded
            first.
    """
    held: dict[str, list[DagsterEvent]] = {}
    ended: set[str] = set()
    try:
        for event in events:
            key = event.step_key
            if key is None or key in ended:
                yield event
                continue
            held.setdefault(key, []).append(event)
            if ends_step(event):
                yield from held.pop(key)
                # The events of another attempt at it are held back again.
                if not event.is_step_up_for_retry:
                    ended.add(key)
    except DagsterExecutionInterruptedError:
        yield from chain.from_iterable(held.values())
        raise
    yield from chain.from_iterable(held.values())
