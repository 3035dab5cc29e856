"""Freeing what the steps of a run hold in Dagster's concurrency pools: slots, and pending claims.

The loop of a run claims a slot before it sends a step, and frees it when the step has ended. A step
that is killed, or never starts, cannot free it. The process that finds out that nothing of the step
can run any more does so instead, or the next run would wait for ever.
"""

from collections.abc import Collection

from dagster import DagsterInstance
from dagster._core.execution.plan.step import ExecutionStep
from dagster._core.storage.event_log import EventLogStorage
from dagster._core.storage.tags import GLOBAL_CONCURRENCY_TAG


def pool_of(step: ExecutionStep) -> str | None:
    """Return the name of the pool in which a step needs a slot, if it needs one."""
    return step.pool or step.tags.get(GLOBAL_CONCURRENCY_TAG)


def free_step(instance: DagsterInstance, run_id: str, step_key: str) -> None:
    """Free what a step holds that cannot run any more.

    Args:
        instance: the instance of the run.
        run_id: the step's run.
        step_key: the step.
    """
    storage = instance.event_log_storage
    if storage.supports_global_concurrency_limits:
        storage.free_concurrency_slot_for_step(run_id, step_key)


def free_run(instance: DagsterInstance, run_id: str, running: Collection[str]) -> None:
    """Free what the steps of a run hold that are not executed any more.

    Args:
        instance: the instance of the run.
        run_id: the run.
        running: the steps of it that still run, and keep their slots.
    """
    storage = instance.event_log_storage
    if not storage.supports_global_concurrency_limits:
        return
    if not running:
        storage.free_concurrency_slots_for_run(run_id)
        return
    for step_key in _steps_in_pools(storage, run_id) - set(running):
        storage.free_concurrency_slot_for_step(run_id, step_key)


def _steps_in_pools(storage: EventLogStorage, run_id: str) -> set[str]:
    """Return the steps of a run that hold a slot or wait for one."""
    steps: set[str] = set()
    for name in storage.get_concurrency_keys():
        pool = storage.get_concurrency_info(name)
        steps.update(slot.step_key for slot in pool.claimed_slots if slot.run_id == run_id)
        steps.update(step.step_key for step in pool.pending_steps if step.run_id == run_id)
    return steps
