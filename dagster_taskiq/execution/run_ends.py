"""Ending a run whose process has died: its end in the log, its steps, and what they hold."""

from collections.abc import Sequence
from datetime import datetime, timezone

from dagster import DagsterEventType, DagsterInstance, DagsterRunStatus

from dagster_taskiq.client import Client
from dagster_taskiq.execution.late_rows import wait_for_late_rows
from dagster_taskiq.execution.pool_slots import free_run
from dagster_taskiq.execution.task_beginnings import sent_task
from dagster_taskiq.wire.records import TaskState
from dagster_taskiq.wire.watching_tasks import is_to_end_its_step

#: The reason for which the steps of such a run are stopped.
PROCESS_ENDED = "the process of its run has ended"

_ENDS = {
    DagsterEventType.RUN_SUCCESS,
    DagsterEventType.RUN_FAILURE,
    DagsterEventType.RUN_CANCELED,
}


def end_run(instance: DagsterInstance, run_id: str, why: str, *, may_resume: bool = True) -> bool:
    """Write the end of a run that is not executed any more, unless Dagster will resume it.

    Args:
        instance: the instance of the run.
        run_id: the run.
        why: sentences for the run's event log.
        may_resume: whether Dagster may resume it: a run launcher has sent it, and it was neither
            cancelled nor over its time limit.

    Returns:
        Whether the run has ended, now or before.
    """
    record = instance.get_run_record_by_id(run_id)
    if record is None or record.dagster_run.is_finished:
        return True
    run = record.dagster_run
    if record.start_time is not None:
        wait_for_late_rows(instance, run, why)
    if follow_log(instance, run_id):
        return True
    if run.status is DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run, message=f"The run was stopped. {why}")
        return True
    # Run monitoring resumes what it has seen started, and nothing else.
    is_started = run.status is DagsterRunStatus.STARTED
    if may_resume and is_started and instance.run_will_resume(run_id):
        instance.report_engine_event(f"{why} Dagster's run monitoring will resume the run.", run)
        return False
    instance.report_run_failed(run, message=why)
    return True


def follow_log(instance: DagsterInstance, run_id: str) -> bool:
    """Give a run the status of the end that is in its log; return whether there is one.

    Dagster writes the event first, and then the status, into another storage. A process that is
    killed in between has ended its run, and must not be given a second end.
    """
    for entry in instance.all_logs(run_id, of_type=_ENDS):
        if entry.dagster_event is not None:
            when = datetime.fromtimestamp(entry.timestamp, timezone.utc)
            instance.handle_run_event(run_id, entry.dagster_event, when)
            return True
    return False


def stop_steps(instance: DagsterInstance, client: Client, run_id: str, reason: str) -> None:
    """Stop the steps of a run whose loop has ended.

    Each step that was sent has the id of its task in the run's event log. Those that wait are
    cancelled, those that run are stopped, and what all others hold in Dagster's pools is freed.
    What a running step holds is freed by its worker when the step has ended. A task that waits, and
    is to watch what an earlier one has started, is left to end that.

    Args:
        instance: the instance of the run.
        client: knows the tasks.
        run_id: the run.
        reason: why they are stopped, to be read by their workers.

    Raises:
        ServerUnavailableError: the backend does not answer.
    """
    sent = instance.all_logs(run_id, of_type=DagsterEventType.STEP_WORKER_STARTING)
    events = [entry.dagster_event for entry in sent]
    ids = [task_id for event in events if event is not None and (task_id := sent_task(event))]
    going = [
        task.id
        for task in client.tasks(ids).values()
        if not task.state.is_final and not is_to_end_its_step(task)
    ]
    if going:
        client.revoke(going, reason)
    free_run(instance, run_id, running=_steps_that_run(client, going))


def _steps_that_run(client: Client, task_ids: Sequence[str]) -> set[str]:
    """Return the steps of tasks that a worker runs; the tasks of lost workers end here."""
    started = [
        task
        for task in (client.tasks(task_ids).values() if task_ids else ())
        if task.state is TaskState.STARTED
    ]
    workers = {worker.id: worker for worker in client.workers()} if started else {}
    running = set()
    for task in started:
        worker = workers.get(task.worker)
        # The processes of a lost worker have ended with its lease.
        if worker is None or not worker.is_lost or not client.mark_lost(task, worker.silence):
            running.add(task.step_key)
    return running
