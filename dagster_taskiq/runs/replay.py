"""Rebuilding the state of a run from its events, for a loop that goes on with it."""

from collections.abc import Sequence

from dagster import DagsterEvent, DagsterInstance, DagsterRun
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.active import ActiveExecution
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext
from dagster._core.execution.plan.step import ExecutionStep

from dagster_taskiq.runs.event_tail import Tailed, ends_step


class Pools(InstanceConcurrencyContext):
    """The claims of one run on Dagster's concurrency pools."""

    def __init__(self, instance: DagsterInstance, run: DagsterRun) -> None:
        super().__init__(instance, run)
        #: Whether the past of a resumed run is replayed.
        self.replaying = False

    def claim(self, concurrency_key: str, step_key: str, step_priority: int = 0) -> bool:
        """Claim a slot of a pool; while replaying, succeed without asking Dagster."""
        if self.replaying:
            # The process that died has claimed it. It is still claimed, and freed by this one.
            self._claims.add(step_key)
            return True
        return super().claim(concurrency_key, step_key, step_priority)

    def count_as_pending(self, step_key: str) -> None:
        """Count a step that was replayed, and was never sent, as one that waits for its slot.

        The process before has claimed the slot, or has waited for it. If this one ends before it
        has asked for it again, what the storage holds for the step is freed.
        """
        if step_key in self._claims:
            self._claims.discard(step_key)
            self._pending_claims.add(step_key)


def replay(
    past: Sequence[Tailed],
    context: PlanOrchestrationContext,
    active: ActiveExecution,
    pools: Pools,
) -> dict[str, ExecutionStep]:
    """Apply the events of a run to ``active``, which has seen none.

    ``ActiveExecution.rebuild_from_events`` of Dagster does not support a history with skipped
    steps, with retries that have waited, or with pools that are full.

    Args:
        past: the events.
        context: Dagster's context of the run.
        active: the state of the run, as Dagster has it.
        pools: the run's claims on Dagster's concurrency pools.

    Returns:
        The steps that were in flight at the end of it, by key; some may never have been sent.
    """
    skipped = {tailed.event.step_key for tailed in past if tailed.event.is_step_skipped}
    in_flight: dict[str, ExecutionStep] = {}
    pools.replaying = True

    def catch_up() -> None:
        while steps := active.get_steps_to_skip():
            for step in steps:
                if step.key not in skipped:
                    DagsterEvent.step_skipped_event(context.for_step(step))
                active.mark_skipped(step.key)
        in_flight.update((step.key, step) for step in active.get_steps_to_execute())

    catch_up()
    for tailed in past:
        event = tailed.event
        key = event.step_key
        if key is None or key not in in_flight or event.is_step_skipped:
            continue
        wait = event.step_retry_data.seconds_to_wait if event.is_step_up_for_retry else None
        if wait:
            # Its delay began when the event was written, not now.
            active.mark_up_for_retry(key, tailed.timestamp + wait)
        else:
            active.handle_event(event)
        if ends_step(event):
            del in_flight[key]
        catch_up()
    pools.replaying = False
    return in_flight
