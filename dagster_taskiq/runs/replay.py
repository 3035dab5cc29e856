"""Rebuilding the state of a run from its events, for a loop that takes over from a dead one."""

from collections.abc import Sequence

from dagster import DagsterEvent
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.active import ActiveExecution
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext
from dagster._core.execution.plan.step import ExecutionStep

from dagster_taskiq.runs.event_tail import Tailed, ends_step


class Pools(InstanceConcurrencyContext):
    """Claims on Dagster's concurrency pools, which a resumed run first only plays back."""

    replaying = False

    def claim(self, concurrency_key: str, step_key: str, step_priority: int = 0) -> bool:
        """Claim a slot of a pool; while replaying, let every step of the past have had its own."""
        if self.replaying:
            # What the dead process claimed is still claimed, and this one has to free it.
            self._claims.add(step_key)
            return True
        return super().claim(concurrency_key, step_key, step_priority)


def replay(
    past: Sequence[Tailed],
    context: PlanOrchestrationContext,
    active: ActiveExecution,
    pools: Pools,
) -> dict[str, ExecutionStep]:
    """Play the events of a run back into ``active``, which is fresh.

    ``ActiveExecution.rebuild_from_events`` of Dagster does not take a history with skipped steps,
    with retries that have waited, or with pools that are full.

    Returns:
        The steps that were in flight at the end of it, by key; some may never have been sent.
    """
    skipped = {tailed.event.step_key for tailed in past if tailed.event.is_step_skipped}
    flying: dict[str, ExecutionStep] = {}
    pools.replaying = True

    def catch_up() -> None:
        while steps := active.get_steps_to_skip():
            for step in steps:
                if step.key not in skipped:
                    DagsterEvent.step_skipped_event(context.for_step(step))
                active.mark_skipped(step.key)
        flying.update((step.key, step) for step in active.get_steps_to_execute())

    catch_up()
    for tailed in past:
        event = tailed.event
        key = event.step_key
        if key is None or key not in flying or event.is_step_skipped:
            continue
        wait = event.step_retry_data.seconds_to_wait if event.is_step_up_for_retry else None
        if wait:
            # Its delay began when the event was written, not now.
            active.mark_up_for_retry(key, tailed.timestamp + wait)
        else:
            active.handle_event(event)
        if ends_step(event):
            del flying[key]
        catch_up()
    pools.replaying = False
    return flying
