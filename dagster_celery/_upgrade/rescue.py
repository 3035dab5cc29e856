"""What becomes of each message that Celery's workers have left: ``dagster-celery drain --rescue``.

Runs and steps are executed by workers of this package. A step's message is kept, under a name of
our own on the same server, until the run loop that waits for the step has been answered: whatever
ends this process, the next one goes on with it. Each task is sent under an id that is the same
every time, so it starts once however often it is sent.
"""

import time
from collections.abc import Callable
from dataclasses import replace

from dagster import DagsterRun, DagsterRunStatus

from dagster_celery._upgrade.left_queues import LeftMessage, LeftQueues
from dagster_celery._upgrade.messages import CeleryMessage, Kind
from dagster_celery._upgrade.replies import Replies
from dagster_celery._upgrade.results import failure, revoked, success
from dagster_celery._upgrade.runs import Runs
from dagster_taskiq import tags
from dagster_taskiq.client import Client
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.execution.run_tasks import STARTABLE
from dagster_taskiq.runs.run_health import RunHealth
from dagster_taskiq.wire.labels import CODE_LABEL
from dagster_taskiq.wire.records import Task, TaskState
from dagster_taskiq.wire.task_names import EXECUTE_PLAN, RESUME_JOB
from dagster_taskiq.wire.task_request import TaskRequest

#: How long it takes at most until what has come or ended is seen, in seconds.
LOOK_SECONDS = 0.5

Say = Callable[[str], None]


class Rescue:
    """One rescue: of what is in the queues, and of what comes while run loops are answered."""

    def __init__(
        self,
        queues: LeftQueues,
        names: tuple[str, ...],
        replies: Replies,
        runs: Runs,
        client: Client,
        say: Say,
        *,
        force: bool = False,
    ) -> None:
        """Do nothing yet.

        Args:
            queues: Celery's queues.
            names: those that are rescued.
            replies: where results go.
            runs: the runs, in Dagster's instance.
            client: sends to the workers of this package.
            say: is called with each sentence about what was done.
            force: rescue although workers of Celery's are on the server.
        """
        self._force = force
        self._queues = queues
        self._names = list(names)
        self._replies = replies
        self._runs = runs
        self._client = client
        self._say = say
        self._health = RunHealth(runs.instance, client.settings, {})
        #: What is executed here and not answered yet, by the id of its task.
        self._pending: dict[str, CeleryMessage] = {}
        #: The runs whose loops have been answered, and may send more steps.
        self._answered: set[str] = set()
        #: Why the loop of a run is gone, by the id of the run.
        self._orphaned: dict[str, str] = {}
        #: The runs that this process has resumed.
        self._resumed: set[str] = set()
        #: Kept messages that are of no use any more.
        self._settled: list[CeleryMessage] = []
        #: Kept messages to be deleted when such a run has been ended or resumed.
        self._unanswerable: list[CeleryMessage] = []
        #: Messages that were left where they are, and named, by queue.
        self._left: dict[str, set[str]] = {name: set() for name in names}

    def work(self, deadline: float) -> bool:
        """Rescue all there is, and what comes until the runs have ended whose loops were answered.

        Args:
            deadline: until when, in ``time.monotonic()``.

        Returns:
            Whether it came to its end before.

        Raises:
            ServerUnavailableError: a server is away; nothing is lost, and another rescue goes on.
            ConfigError: workers of Celery's consume.
        """
        for message in self._queues.kept():
            self._go_on_with(message)
        last_news = ""
        while True:
            self._find_further_queues()
            self._check_consumers()
            self._handle_all()
            self._answer_what_has_ended()
            has_ended_runs = self._end_orphaned_runs()
            # Together, since on RabbitMQ all that are kept are looked at for it.
            self._queues.forget(self._settled)
            self._settled.clear()
            if has_ended_runs:
                continue  # to their messages, which are of no use any more
            waiting = self._waiting_for()
            if not waiting:
                return True
            if waiting != last_news:
                self._say(waiting)
                last_news = waiting
            if time.monotonic() > deadline:
                return False
            time.sleep(LOOK_SECONDS)

    def _check_consumers(self) -> None:
        consumers = "" if self._force else self._queues.consumers(self._names)
        if consumers:
            raise ConfigError(
                f"Celery's workers consume there ({consumers}). Stop them first, or the same is "
                "executed twice. If they serve none of these queues, add --force."
            )

    def _find_further_queues(self) -> None:
        """Look for queues that the run loops that were answered have sent further steps to."""
        for run_id in () if self._pending else self._answered:
            for name in self._runs.queues_of(run_id):
                if name not in self._left:
                    self._names.append(name)
                    self._left[name] = set()

    def _waiting_for(self) -> str:
        """Return what is still to come, in a sentence; empty if nothing is."""
        going = {run_id for run_id in self._answered if self._is_going(run_id)}
        self._answered &= going
        if self._pending:
            queues = sorted({each.queue for each in self._pending.values()})
            alive = [each for each in self._client.workers() if not each.is_lost]
            served = {queue for each in alive for queue in each.queues}
            text = f"Waiting for {len(self._pending)} step(s) that are executed here."
            if unserved := [each for each in queues if each not in served]:
                text += f" No worker serves {', '.join(unserved)} now: start one."
            return text
        if going:
            return f"Waiting for further steps of {len(going)} run(s): {', '.join(sorted(going))}."
        return ""

    def _handle_all(self) -> None:
        self._runs.read_anew()
        for count in self._queues.count(self._names):
            # Those that stay are not read again and again.
            if count.waiting + (count.taken or 0) > len(self._left[count.queue]):
                with self._queues.scan(count.queue) as messages:
                    for left in messages:
                        self._handle(left)

    def _handle(self, left: LeftMessage) -> None:
        message = left.message
        try:
            if message.problem:
                self._leave(message, message.problem)
            elif message.kind is Kind.RUN:
                self._handle_run(left, self._runs.run_of(message))
            elif message.kind is Kind.STEP:
                self._handle_step(left, self._runs.run_of(message))
            else:
                self._leave(message, "is of a task of your own: send it again")
        except ValueError as error:
            self._leave(message, str(error))

    def _leave(self, message: CeleryMessage, why: str) -> None:
        key = message.id or message.digest
        if key not in self._left[message.queue]:
            self._left[message.queue].add(key)
            self._say(f'Left in queue "{message.queue}": {message.named}; it {why}.')

    def _handle_run(self, left: LeftMessage, run_id: str) -> None:
        run = self._runs.get(run_id)
        if run is None:
            self._leave(left.message, f"is of run {run_id}, which is not in this Dagster instance")
            return
        if run.status in STARTABLE:
            # Sent first: if this process dies in between, it is sent again, and starts once.
            self._runs.launch(run)
            self._say(f"Run {run_id}: launched here.")
        elif run.status is DagsterRunStatus.CANCELING:
            self._runs.cancel(run, "The run was stopped before Celery had started it.")
            self._say(f"Run {run_id}: cancelled, as was requested.")
        elif run.status is DagsterRunStatus.STARTED and left.message.task == RESUME_JOB:
            self._runs.resume(run)
            self._say(f"Run {run_id}: resumed here.")
        else:
            self._say(f"Run {run_id}: is {run.status.value}; its message is dropped.")
        left.drop()

    def _handle_step(self, left: LeftMessage, run_id: str) -> None:
        message, run = left.message, self._runs.get(run_id)
        step = self._runs.step_of(message)
        if run is None:
            self._leave(message, f"is of run {run_id}, which is not in this Dagster instance")
            return
        if run.is_finished:
            self._say(f'Step "{step}" of run {run_id}: the run is {run.status.value}; dropped.')
            left.drop()
        elif self._is_known(message):
            # It came back to the queue after it was sent here.
            if left.keep():
                self._go_on_with(message)
        elif run_id in self._orphaned:
            pass  # it is dropped when that run has been ended, or resumed
        elif run_id not in self._resumed and self._replies.waits(message):
            if left.keep():
                self._send(message, run_id, step)
        elif run_id in self._resumed or self._is_executed_here(run):
            self._say(f'Step "{step}" of run {run_id}: the run goes on here without it; dropped.')
            left.drop()
        else:
            self._orphaned[run_id] = f'nobody waited any more for its step "{step}"'

    def _go_on_with(self, message: CeleryMessage) -> None:
        """Go on with a message that was kept before."""
        run_id, step = self._runs.run_of(message), self._runs.step_of(message)
        run = self._runs.get(run_id)
        if (task := self._client.tasks([message.id]).get(message.id)) is not None:
            self._pending[message.id] = message
            if task.state is TaskState.WAITING:
                # A process that was killed as it sent it may have come no further than the record.
                self._submit(message)
        elif run is None or run.is_finished:
            self._settled.append(message)
        elif self._replies.waits(message):
            self._send(message, run_id, step)
        else:
            self._orphaned[run_id] = f'nobody waited any more for its step "{step}"'
            self._unanswerable.append(message)

    def _send(self, message: CeleryMessage, run_id: str, step: str) -> None:
        attempt = self._runs.attempt(message)
        if attempt.has_ended:
            self._say(f'Step "{step}" of run {run_id}: has ended; its run loop is told.')
            self._answer(message, success(message.id, attempt.events))
            return
        if attempt.has_begun:
            why = f'step "{step}" had begun on one of Celery\'s workers, which is gone.'
            self._say(f"Run {run_id}: {why}")
            self._answer(message, failure(message.id, why))
            return
        self._submit(message)
        self._pending[message.id] = message
        self._say(f'Step "{step}" of run {run_id}: sent to the workers here.')

    def _is_executed_here(self, run: DagsterRun) -> bool:
        """Return whether a worker here has begun a run, or has begun to go on with it."""
        task_id = run.tags.get(tags.TASK_ID_TAG)
        task = self._client.tasks([task_id]).get(task_id) if task_id else None
        return task is not None and task.state is not TaskState.WAITING

    def _is_known(self, message: CeleryMessage) -> bool:
        return message.id in self._pending or bool(self._client.tasks([message.id]))

    def _submit(self, message: CeleryMessage) -> None:
        """Send a step to the workers here; sent again, it starts once."""
        self._client.submit(
            TaskRequest(
                id=message.id,
                name=message.task,
                args=message.args,
                kwargs=message.kwargs or {},
                queue=message.queue,
                priority=message.priority,
                labels={CODE_LABEL: self._runs.code_directory(message)},
            )
        )

    def _answer_what_has_ended(self) -> None:
        tasks = self._client.tasks(list(self._pending))
        self._runs.read_anew()
        for message in list(self._pending.values()):
            task = tasks.get(message.id)
            if task is None:
                # Its record was lost: sent again, it starts once if it has not started.
                self._go_on_with(message)
            elif lost := self._health.why_lost(task):
                self._answer(message, self._result(message, replace(task, error=lost)))
            elif task.state.is_final:
                self._answer(message, self._result(message, task))

    def _result(self, message: CeleryMessage, task: Task) -> bytes:
        """Return the result of a task that has ended, or was lost, in Celery's form."""
        if task.state is TaskState.SUCCESS and message.task != EXECUTE_PLAN:
            # The tasks of libraries return the events of their step.
            result = self._client.result(task.id)
            value = result.return_value if result is not None else None
            if isinstance(value, list):
                return success(message.id, value)
        attempt = self._runs.attempt(message)
        if task.state is TaskState.SUCCESS or attempt.has_ended:
            return success(message.id, attempt.events)
        why = task.error or "It is not known why the step has not come to its end."
        if task.state is TaskState.REVOKED:
            return revoked(message.id, why)
        return failure(message.id, why)

    def _answer(self, message: CeleryMessage, result: bytes) -> None:
        run_id, step = self._runs.run_of(message), self._runs.step_of(message)
        self._pending.pop(message.id, None)
        if self._replies.answer(message, result):
            self._answered.add(run_id)
            self._say(f'Step "{step}" of run {run_id}: its run loop has the result.')
            self._settled.append(message)
        else:
            self._orphaned[run_id] = f'nobody waited any more for the result of its step "{step}"'
            self._unanswerable.append(message)

    def _end_orphaned_runs(self) -> bool:
        """End or resume the runs whose loops are gone; return whether there was one."""
        pending = {self._runs.run_of(each) for each in self._pending.values()}
        ready = [run_id for run_id in self._orphaned if run_id not in pending]
        for run_id in ready:
            self._end_orphaned_run(run_id, self._orphaned.pop(run_id))
            self._answered.discard(run_id)
        for message in list(self._unanswerable):
            if self._runs.run_of(message) in ready:
                self._settled.append(message)
                self._unanswerable.remove(message)
        return bool(ready)

    def _end_orphaned_run(self, run_id: str, why: str) -> None:
        run = self._runs.get(run_id)
        if run is None or run.is_finished:
            return
        if run.status is DagsterRunStatus.CANCELING:
            self._runs.cancel(run, f"The run was stopped; {why}.")
            return
        gone = f"The process of the run has gone: {why}."
        begun = self._runs.begun_steps(run)
        if self._runs.was_launched(run) and not begun:
            self._runs.report(run, f"{gone} The run is resumed.")
            self._runs.resume(run)
            self._resumed.add(run_id)
            self._say(f"Run {run_id}: resumed here, since {why}.")
        else:
            steps = f" Step(s) had begun and not ended: {', '.join(begun)}." if begun else ""
            self._runs.fail(run, f"{gone}{steps} Re-execute it from its failure.")
            self._say(f"Run {run_id}: failed, since {why}.")

    def _is_going(self, run_id: str) -> bool:
        run = self._runs.get(run_id)
        return run is not None and not run.is_finished
