"""Running tasks in a pool of children without a broker and a backend."""

from typing import Any

from taskiq import TaskiqMessage, TaskiqResult

from dagster_taskiq.transport.results import ReportedEnd, result_from_json
from dagster_taskiq.worker.pool import Pool
from dagster_taskiq.worker.running_task import EndReports


async def run_in(pool: Pool, task: TaskiqMessage) -> TaskiqResult[Any]:
    """Run a task after whose end nothing more is to be done."""

    async def record_nothing(result: TaskiqResult[Any]) -> None:
        raise AssertionError(f"The child asks to record {result}.")

    outcome = await pool.run(task, EndReports(record_nothing))
    if isinstance(outcome, ReportedEnd):
        return result_from_json(outcome.result)
    assert isinstance(outcome, TaskiqResult)
    return outcome
