"""What runs inside a child process of a worker: one task after the other, on its main thread.

A child imports Dagster and the user's code once and keeps them, with the instance and its
connections, for the tasks that follow. After each task it ends what the task has started and left
behind. The fork server and the kernel end it when its worker or the worker's lease ends, without
any code here. When its parent closes the channel, it ends after its exit hooks
(:mod:`dagster_taskiq.worker.fork_server.process_exit`).
"""

import os
import signal
import socket
import sys
from typing import Any

from taskiq import AsyncBroker, TaskiqMessage, TaskiqResult

from dagster_taskiq.dagster_internals import (
    compute_logs,
    interrupt_handlers,
    job_definitions,
    op_retries,
    registry,
    run_config_cache,
)
from dagster_taskiq.dagster_internals.storage_connections import open_connections_kept
from dagster_taskiq.execution.own_tasks import own_tasks_of
from dagster_taskiq.execution.perform import async_tasks_of, perform
from dagster_taskiq.execution.task_context import TaskContext, current_context, task_context
from dagster_taskiq.tracing import spans
from dagster_taskiq.transport import current, result_waits
from dagster_taskiq.transport.results import PutBack
from dagster_taskiq.wire.stop_causes import StopCause
from dagster_taskiq.wire.task_counts import Outcome
from dagster_taskiq.worker import process_trees
from dagster_taskiq.worker.child import inbox
from dagster_taskiq.worker.child.async_tasks import AsyncTasks
from dagster_taskiq.worker.child.parent import Parent
from dagster_taskiq.worker.child.process_state import ProcessState, streams
from dagster_taskiq.worker.child.reports import as_text, report_end
from dagster_taskiq.worker.child.setup import set_up
from dagster_taskiq.worker.child.slot_lending import SlotLending
from dagster_taskiq.worker.child.stop_reasons import StopReasons
from dagster_taskiq.worker.stop_requests import StopRequests

#: How long the export of traces may delay the end of a task that was stopped, in seconds.
FLUSH_SECONDS = 1.0


def main(channel: socket.socket, stop_requests: socket.socket) -> None:
    """Serve the parent at the other end of ``channel`` until it closes it.

    Args:
        channel: carries frames both ways; the first is the set-up.
        stop_requests: tells signals of the parent from those of others; see
            :mod:`dagster_taskiq.worker.stop_requests`.
    """
    # At SIGTERM, Dagster calls the handler of this signal, which the fork server ignores.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupt_handlers.install(StopRequests(stop_requests).only_requested)
    # Processes that the user's code forks must not keep these open: the parent notices the end of
    # this process by the end of the channel.
    os.register_at_fork(after_in_child=channel.close)
    os.register_at_fork(after_in_child=stop_requests.close)
    try:
        with open_connections_kept():
            _serve(channel)
    except KeyboardInterrupt:
        pass  # a request to stop that arrived between two tasks: the parent replaces this child
    finally:
        spans.finish()
        streams.flush()


def _serve(channel: socket.socket) -> None:
    parent = Parent(channel)
    setup = parent.receive_setup()
    if setup is None:
        return
    broker, problem = set_up(setup)
    own_tasks = own_tasks_of(broker)
    current.use_project(current.Project(broker, own_tasks.start_hooks))
    parent.report_ready(
        problem, registry.find_problems(), own_tasks.has_hooks, async_tasks_of(broker)
    )
    compute_logs.install(parent.report_output)
    run_config_cache.install()
    job_definitions.install()
    op_retries.install(_why_not_retried)
    process = ProcessState()
    outcomes: list[tuple[Outcome, str]] = []
    context = TaskContext(
        setup["worker_name"],
        wake=parent.report_wake,
        orchestrating=parent.report_orchestrating,
        begun=parent.report_begun,
        stay=parent.report_stay,
        record_end=lambda result: parent.record_end(as_text(result, is_typed=True)),
        note_outcome=lambda outcome, why: outcomes.append((outcome, why)),
        stop_request=StopReasons(parent).read,
        loading=process.loading,
    )
    async_tasks = AsyncTasks(parent, process, context, broker)
    try:
        while (frame := parent.receive(inbox.TASKS)) is not None:
            if "id" in frame:
                async_tasks.handle(frame)
                continue
            message = TaskiqMessage.model_validate(frame["run"])
            result_waits.observe(SlotLending(parent).note)
            ended = process.run(_perform_in, context, broker, message)
            if spans.in_use() and context.stop_request() is not None:
                spans.flush(FLUSH_SECONDS)  # the parent will kill this process
            # A library that keeps processes for the next task would not find those that were
            # ended, so this child is not used again either.
            left = [*_end_what_was_started(), *process.restore(), *own_tasks.remains()]
            outcome = outcomes[-1] if outcomes else None
            outcomes.clear()
            is_typed = frame["typed"]
            if report_end(parent, message, ended, is_typed=is_typed, left=left, outcome=outcome):
                return
    finally:
        own_tasks.shut_down()


def _why_not_retried(in_this_process: bool) -> str:
    request = current_context().stop_request()
    if request is None or not (in_this_process or request.cause is StopCause.CANCELLED):
        return ""
    return request.reason


def _perform_in(
    context: TaskContext, broker: AsyncBroker, message: TaskiqMessage
) -> TaskiqResult[Any] | PutBack:
    with task_context(context):
        return perform(broker, message)


def _end_what_was_started() -> list[str]:
    """End the processes that a task has left behind; return what there was, in words."""
    if not process_trees.has_children():
        return []
    ended = process_trees.end_children(spared=_resource_tracker())
    return [f"processes that it had started, now ended: {ended}"] if ended else []


def _resource_tracker() -> tuple[int, ...]:
    """Return the helper of multiprocessing, if there is one; Python ends it with this process."""
    module = sys.modules.get("multiprocessing.resource_tracker")
    pid = getattr(getattr(module, "_resource_tracker", None), "_pid", None)
    return () if pid is None else (pid,)
