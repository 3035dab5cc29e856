"""Handing a run over: its worker is to end, and another one goes on with the run.

The process of the run has been ended at an arbitrary moment, as if it had died, so what goes on
with it is what resumes a run in any case.
"""

import socket
from collections.abc import Mapping
from typing import Any

from dagster import DagsterInstance, DagsterRunStatus
from dagster._core.storage.dagster_run import DagsterRun
from dagster._grpc.types import ExecuteRunArgs, ResumeRunArgs
from dagster._serdes import pack_value, unpack_value

from dagster_taskiq import tags
from dagster_taskiq.client import client_for
from dagster_taskiq.execution.instances import find_run, instance_of
from dagster_taskiq.execution.run_ends import PROCESS_ENDED, end_run, follow_log, stop_steps
from dagster_taskiq.execution.run_tasks import RESUMABLE, STARTABLE
from dagster_taskiq.execution.task_context import current_context
from dagster_taskiq.settings.worker_fleet import process_settings
from dagster_taskiq.wire.labels import CODE_LABEL, PRIORITY_LABEL, QUEUE_LABEL
from dagster_taskiq.wire.queues import queue_of_run_queue
from dagster_taskiq.wire.run_task_ids import attempt_of, resumption_id
from dagster_taskiq.wire.task_names import EXECUTE_JOB, PACKED_RUN, RESUME_JOB
from dagster_taskiq.wire.task_request import TaskRequest


def hand_over_run(
    name: str, kwargs: Mapping[str, Any], labels: Mapping[str, Any], task_id: str
) -> str:
    """Send a run on for another worker to resume; the process that had it has been ended.

    Called again after a failure, it does what is left to be done.

    Args:
        name: the name of the task that had the run.
        kwargs: the arguments of that task.
        labels: the labels of its message.
        task_id: its id.

    Returns:
        The id of the task that goes on with the run; empty if the run has ended.

    Raises:
        RunNotFoundError: the run is not in this worker's instance.
        ServerUnavailableError: broker or backend does not answer.
    """
    args = unpack_value(kwargs[PACKED_RUN[name]], as_type=(ExecuteRunArgs, ResumeRunArgs))
    instance = instance_of(args)
    client = client_for(process_settings())
    run = find_run(instance, args.run_id)
    if run.is_finished or follow_log(instance, args.run_id):
        return ""
    if run.status not in (*RESUMABLE, *STARTABLE):  # it is being cancelled
        if end_run(instance, args.run_id, "Its process was ended, as its worker is to end."):
            stop_steps(instance, client, args.run_id, PROCESS_ENDED)
        return ""
    request = _successor(args, run, kwargs, labels, task_id)
    # Before it is sent, as when a run is launched: the task can be found from then on.
    names = (tags.TASK_ID_TAG, tags.OLDER_NAMES[tags.TASK_ID_TAG])
    changed = {each: request.id for each in names if run.tags.get(each) == task_id}
    instance.add_run_tags(args.run_id, changed)
    client.submit(request)
    _report_handed_over(instance, run, request)
    # Who terminates the run reads the tag once more after it has revoked the task it found there.
    had_it = client.tasks([task_id]).get(task_id)
    if had_it is not None and had_it.revoke_requested:
        client.revoke([request.id], had_it.error)
        sent = client.tasks([request.id]).get(request.id)
        if sent is None or not sent.started_at:
            end_run(instance, args.run_id, "It was terminated as it was handed over.")
            stop_steps(instance, client, args.run_id, had_it.error)
            return ""
    return request.id


def _successor(
    args: ExecuteRunArgs | ResumeRunArgs,
    run: DagsterRun,
    kwargs: Mapping[str, Any],
    labels: Mapping[str, Any],
    task_id: str,
) -> TaskRequest:
    """Return the request to go on with a run, after the task with these arguments and labels.

    A run that had not begun is executed from its start.
    """
    has_begun = run.status is DagsterRunStatus.STARTED
    name = RESUME_JOB if has_begun else EXECUTE_JOB
    kind = ResumeRunArgs if has_begun else ExecuteRunArgs
    run_args = kind(
        job_origin=args.job_origin,
        run_id=args.run_id,
        instance_ref=args.instance_ref,
        set_exit_code_on_failure=True,
    )
    before = {"previous_task_id": task_id} if has_begun else {}
    include = list(kwargs.get("include") or ())
    return TaskRequest(
        id=resumption_id(args.run_id, attempt_of(task_id) + 1),
        name=name,
        kwargs={PACKED_RUN[name]: pack_value(run_args), "include": include, **before},
        queue=str(labels[QUEUE_LABEL]),
        priority=int(labels.get(PRIORITY_LABEL) or 0),
        run_id=args.run_id,
        job=run.job_name,
        labels={CODE_LABEL: labels[CODE_LABEL]} if CODE_LABEL in labels else {},
    )


def _report_handed_over(instance: DagsterInstance, run: DagsterRun, request: TaskRequest) -> None:
    queue = queue_of_run_queue(request.queue)
    instance.report_engine_event(
        f"Worker {current_context().worker} on {socket.gethostname()} is to end, and has handed "
        f'the run over: another worker that serves queue "{queue}" goes on with it, as task '
        f"{request.id}. Steps that run go on.",
        run,
    )
