"""What becomes of each message that Celery's workers have left: ``dagster-celery drain --rescue``.

Runs and steps are executed by workers of this package. A step's message is kept, under a name of
our own on the same server, until the run loop that waits for the step has been answered and goes
on: whatever ends this process, the next one goes on with it. Each task is sent under an id that is
the same every time, so it starts once however often it is sent.

Nothing on a server shows for certain that a run loop is gone: a subscription is lost with its
connection, and a reply queue with its server. So a step is executed whether anybody waits or not,
as Celery's workers do, and the run loop is known by its going on in the log of its run.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from dagster import DagsterRun, DagsterRunStatus

from dagster_celery._upgrade.left_queues import LeftMessage, LeftQueues
from dagster_celery._upgrade.messages import CeleryMessage, Kind
from dagster_celery._upgrade.replies import Replies
from dagster_celery._upgrade.results import failure, revoked, success
from dagster_celery._upgrade.run_watch import RunWatch, lives_here
from dagster_celery._upgrade.runs import Runs
from dagster_taskiq import tags
from dagster_taskiq.client import Client
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.execution.run_tasks import STARTABLE
from dagster_taskiq.runs.checked_runs import CheckedRuns
from dagster_taskiq.runs.run_health import RunHealth
from dagster_taskiq.wire.labels import CODE_LABEL
from dagster_taskiq.wire.records import Task, TaskState
from dagster_taskiq.wire.task_names import EXECUTE_PLAN, RESUME_JOB
from dagster_taskiq.wire.task_request import TaskRequest

#: How long it takes at most until what has come or ended is seen, in seconds.
LOOK_SECONDS = 0.5
#: How long nothing may be written into the log of a run whose run loop has all results, in seconds,
#: until that loop counts as gone. It looks for results every second, and writes at once what it
#: does next.
QUIET_SECONDS = 20.0
#: How often a queue is read whose messages are all left where they are, in seconds: another may
#: have come as one of them went away.
READ_AGAIN_SECONDS = 10.0

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
        self._health = RunHealth(runs.instance, client.settings, CheckedRuns())
        #: What is executed here and not answered yet, by the id of its task.
        self._pending: dict[str, CeleryMessage] = {}
        #: The runs whose loops have been answered, and may send more steps.
        self._answered: dict[str, RunWatch] = {}
        #: Kept messages whose results were sent, by run, until it is known what its loop does.
        self._told: dict[str, list[CeleryMessage]] = {}
        #: The processes that have sent steps, as the messages name them, by run.
        self._origins: dict[str, set[str]] = {}
        #: Results that nobody can read now, as the reply queue is not there, by the id of the task.
        self._untold: dict[str, tuple[CeleryMessage, bytes]] = {}
        #: Steps that have ended by what their run loop was told, and not by the log, by run.
        self._given_up: dict[str, set[str]] = {}
        #: Why a run is to be ended or resumed, by its id.
        self._orphaned: dict[str, str] = {}
        #: The runs that were ended or resumed for that, or left to run monitoring.
        self._dealt_with: set[str] = set()
        #: The runs of which it was said that they cannot end.
        self._hanging: set[str] = set()
        #: Kept messages that are of no use any more.
        self._settled: list[CeleryMessage] = []
        #: Messages that were left where they are, and named.
        self._left: set[tuple[str, str]] = set()
        #: How many messages a queue had that were left there, and when it was read.
        self._read: dict[str, tuple[int, float]] = {}
        self._deadline = math.inf

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
        self._deadline = deadline
        for message in self._queues.kept():
            self._go_on_with(message)
        last_news = ""
        while True:
            self._find_further_queues()
            self._check_consumers()
            self._handle_all()
            self._answer_what_has_ended()
            self._watch_run_loops()
            # Further messages of a run that has ended now are of no use any more.
            has_more = self._end_orphaned_runs()
            # Together, since on RabbitMQ all that are kept are looked at for it.
            self._queues.forget(self._settled)
            self._settled.clear()
            waiting = self._waiting_for()
            remaining = self._remaining()
            if not (waiting or has_more) and remaining > 0:
                self._name_hanging_runs()
                return True
            if waiting and waiting != last_news:
                self._say(waiting)
                last_news = waiting
            if remaining <= 0:
                return False
            time.sleep(min(LOOK_SECONDS, remaining))

    def _remaining(self) -> float:
        """Return how many seconds there are until the deadline."""
        return self._deadline - time.monotonic()

    def _check_consumers(self) -> None:
        consumers = "" if self._force else self._queues.consumers(self._names)
        if consumers:
            raise ConfigError(
                f"Celery's workers consume there ({consumers}). Stop them first, or the same is "
                "executed twice. If they serve none of these queues, add --force."
            )

    def _find_further_queues(self) -> None:
        """Look for queues that the run loops that were answered have sent further steps to."""
        found = {queue for watch in self._answered.values() for queue in watch.queues}
        self._names += sorted(found.difference(self._names))

    def _waiting_for(self) -> str:
        """Return what is still to come, in a sentence; empty if nothing is."""
        if self._pending:
            queues = sorted({each.queue for each in self._pending.values()})
            alive = [each for each in self._client.workers() if not each.is_lost]
            served = {queue for each in alive for queue in each.queues}
            text = f"Waiting for {len(self._pending)} step(s) that are executed here."
            if unserved := [each for each in queues if each not in served]:
                text += f" No worker serves {', '.join(unserved)} now: start one."
            return text
        if going := sorted(self._answered):
            return f"Waiting for further steps of {len(going)} run(s): {', '.join(going)}."
        return ""

    def _handle_all(self) -> None:
        self._runs.read_anew()
        for count in self._queues.count(self._names):
            number, now = count.waiting + (count.taken or 0), time.monotonic()
            last_number, last_read = self._read.get(count.queue, (0, -math.inf))
            # Those that stay are not read again and again.
            if not number or (number == last_number and now - last_read < READ_AGAIN_SECONDS):
                continue
            left_there = 0
            with self._queues.scan(count.queue) as messages:
                for left in messages:
                    if self._remaining() <= 0:
                        return
                    left_there += not self._handle(left)
            self._read[count.queue] = (left_there, now)

    def _handle(self, left: LeftMessage) -> bool:
        """Do what is to be done for a message; return whether that is not to be left there."""
        message = left.message
        why = message.problem
        try:
            if why:
                pass
            elif message.kind is Kind.RUN:
                why = self._handle_run(left, self._runs.run_of(message))
            elif message.kind is Kind.STEP:
                why = self._handle_step(left, self._runs.run_of(message))
            else:
                why = "is of a task of your own: send it again"
        except ValueError as error:
            why = str(error)
        key = (message.queue, message.id or message.digest)
        if why and key not in self._left:
            self._left.add(key)
            self._say(f'Left in queue "{message.queue}": {message.named}; it {why}.')
        return not why

    def _handle_run(self, left: LeftMessage, run_id: str) -> str:
        """Do what is to be done for a run; return why its message is left, if it is."""
        run = self._runs.get(run_id)
        if run is None:
            return f"is of run {run_id}, which is not in this Dagster instance"
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
        return ""

    def _handle_step(self, left: LeftMessage, run_id: str) -> str:
        """Do what is to be done for a step; return why its message is left, if it is."""
        message, run = left.message, self._runs.get(run_id)
        step = self._runs.step_of(message)
        if run is None:
            return f"is of run {run_id}, which is not in this Dagster instance"
        if run.is_finished:
            self._say(f'Step "{step}" of run {run_id}: the run is {run.status.value}; dropped.')
            left.drop()
        elif self._is_known(message):
            # It came back to the queue after it was sent here.
            if left.keep():
                self._go_on_with(message)
        elif run_id in self._dealt_with or self._is_executed_here(run):
            self._say(f'Step "{step}" of run {run_id}: the run goes on without it; dropped.')
            left.drop()
        elif self._is_sent_here(run):
            # A rescue that was killed as it resumed the run may have come no further than the
            # record of its task.
            self._orphaned.setdefault(run_id, f'it was resumed before its step "{step}" was seen')
        elif left.keep():
            self._send(message, run_id, step, run)
        return ""

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
            self._pending.pop(message.id, None)
            self._settled.append(message)
        else:
            self._send(message, run_id, step, run)

    def _send(self, message: CeleryMessage, run_id: str, step: str, run: DagsterRun) -> None:
        attempt = self._runs.attempt(message)
        if attempt.has_ended:
            self._say(f'Step "{step}" of run {run_id}: has ended; its run loop is told.')
            self._answer(message, success(message.id, attempt.events))
        elif attempt.has_begun:
            why = f'step "{step}" had begun on one of Celery\'s workers, which is gone.'
            self._say(f"Run {run_id}: {why}")
            self._give_up(message, failure(message.id, why))
        elif run.status is DagsterRunStatus.CANCELING:
            self._say(f'Step "{step}" of run {run_id}: the run is to be stopped; not executed.')
            self._give_up(message, revoked(message.id, "The run was stopped."))
        else:
            self._submit(message)
            self._pending[message.id] = message
            self._say(f'Step "{step}" of run {run_id}: sent to the workers here.')

    def _is_executed_here(self, run: DagsterRun) -> bool:
        """Return whether a worker here has begun a run, or has begun to go on with it."""
        task = self._task_of(run)
        return task is not None and task.state is not TaskState.WAITING

    def _is_sent_here(self, run: DagsterRun) -> bool:
        return self._task_of(run) is not None

    def _task_of(self, run: DagsterRun) -> Task | None:
        task_id = run.tags.get(tags.TASK_ID_TAG)
        return self._client.tasks([task_id]).get(task_id) if task_id else None

    def _is_known(self, message: CeleryMessage) -> bool:
        return message.id in self._pending or bool(self._client.tasks([message.id]))

    def _submit(self, message: CeleryMessage) -> None:
        """Send a step to the workers here; sent again, it starts once."""
        run = self._runs.get(self._runs.run_of(message))
        self._client.submit(
            TaskRequest(
                id=message.id,
                name=message.task,
                args=message.args,
                kwargs=message.kwargs or {},
                queue=message.queue,
                priority=message.priority,
                job=run.job_name if run is not None else "",
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
                self._answer_with(message, replace(task, error=lost))
            elif task.state.is_final:
                self._answer_with(message, task)

    def _answer_with(self, message: CeleryMessage, task: Task) -> None:
        """Answer with the result of a task that has ended, or was lost, in Celery's form."""
        if task.state is TaskState.SUCCESS and message.task != EXECUTE_PLAN:
            # The tasks of libraries return the events of their step.
            result = self._client.result(task.id)
            value = result.return_value if result is not None else None
            if isinstance(value, list):
                self._answer(message, success(message.id, value))
                return
        attempt = self._runs.attempt(message)
        if task.state is TaskState.SUCCESS or attempt.has_ended:
            self._answer(message, success(message.id, attempt.events))
            return
        why = task.error or "It is not known why the step has not come to its end."
        write = revoked if task.state is TaskState.REVOKED else failure
        self._give_up(message, write(message.id, why))

    def _give_up(self, message: CeleryMessage, result: bytes) -> None:
        """Answer that a step has not come to its end, whatever the log has of it."""
        run_id, step = self._runs.run_of(message), self._runs.step_of(message)
        self._given_up.setdefault(run_id, set()).add(step)
        self._answer(message, result)

    def _answer(self, message: CeleryMessage, result: bytes) -> None:
        run_id, step = self._runs.run_of(message), self._runs.step_of(message)
        self._pending.pop(message.id, None)
        self._told.setdefault(run_id, []).append(message)
        self._origins.setdefault(run_id, set()).add(message.origin)
        if self._replies.answer(message, result):
            self._say(f'Step "{step}" of run {run_id}: its run loop has the result.')
        else:
            self._untold[message.id] = (message, result)
        if run_id in self._answered:
            self._answered[run_id].look()
            self._answered[run_id].restart()
        else:
            self._answered[run_id] = RunWatch(self._runs.instance, run_id)

    def _watch_run_loops(self) -> None:
        """See which of the run loops that were answered go on, and which do not."""
        for message, result in list(self._untold.values()):
            # A run loop that lives makes its reply queue anew when the server has lost it.
            if self._remaining() > 0 and self._replies.answer(message, result):
                del self._untold[message.id]
        pending = {self._runs.run_of(each) for each in self._pending.values()}
        for run_id, watch in list(self._answered.items()):
            run = self._runs.get(run_id)
            if run is None or run.is_finished:
                self._settle(run_id)
            elif run_id in pending:
                watch.restart()
            elif watch.look():
                self._settle_told(run_id)
            elif watch.quiet_seconds > QUIET_SECONDS and run_id not in self._orphaned:
                self._judge(run_id)

    def _judge(self, run_id: str) -> None:
        """Decide on a run in whose log nothing has been written for a while."""
        # Read as a whole: rows may have become visible after others that were read before.
        watch = RunWatch(self._runs.instance, run_id)
        given_up = self._given_up.get(run_id, set())
        lost = [step for step in watch.open_steps if step not in given_up]
        if lost:
            self._settle(run_id)
            self._say_hanging(run_id, lost)
        elif watch.is_held():
            self._answered[run_id].restart()
        elif lives := [each for each in self._origins.get(run_id, ()) if lives_here(each)]:
            self._settle(run_id)
            self._hanging.add(run_id)
            self._say(
                f"Run {run_id}: its process ({lives[0]}) lives on this host, and has not gone on "
                f"for {QUIET_SECONDS:g} s with what it was sent. If it does, rescue again."
            )
        else:
            self._orphaned[run_id] = (
                f"nobody went on with it for {QUIET_SECONDS:g} s after the end of its step(s)"
            )

    def _settle(self, run_id: str) -> None:
        """Wait no longer for a run."""
        self._answered.pop(run_id, None)
        self._settle_told(run_id)

    def _settle_told(self, run_id: str) -> None:
        """Delete the kept messages of a run whose results are of use to nobody any more."""
        for message in self._told.pop(run_id, []):
            self._untold.pop(message.id, None)
            self._settled.append(message)

    def _name_hanging_runs(self) -> None:
        """Name the runs that wait for steps of which Celery's workers have lost the messages."""
        for sent in self._runs.sent_by_celery():
            run_id = sent.run.run_id
            if run_id in self._hanging or run_id in self._dealt_with:
                continue
            watch = RunWatch(self._runs.instance, run_id)
            steps = [
                step
                for step, has_begun in watch.open_steps.items()
                if has_begun or watch.queues.issubset(self._names)
            ]
            if steps:
                self._say_hanging(run_id, steps)

    def _say_hanging(self, run_id: str, steps: Sequence[str]) -> None:
        self._hanging.add(run_id)
        names = ", ".join(f'"{each}"' for each in steps)
        self._say(
            f"Run {run_id}: waits for its step(s) {names}, which Celery's workers have taken and "
            "not ended, and which are in no queue. If a worker of Celery's still executes them, "
            "rescue again when it has ended. Else nothing will ever end them: stop the process of "
            "the run, if it has one, terminate the run, and re-execute it from its failure."
        )

    def _end_orphaned_runs(self) -> bool:
        """End or resume the runs whose loops are gone; return whether there was one."""
        pending = {self._runs.run_of(each) for each in self._pending.values()}
        ready = [run_id for run_id in self._orphaned if run_id not in pending]
        for run_id in ready:
            if self._remaining() <= 0:
                break
            self._end_orphaned_run(run_id, self._orphaned.pop(run_id))
            self._dealt_with.add(run_id)
            self._settle(run_id)
        return bool(ready)

    def _end_orphaned_run(self, run_id: str, why: str) -> None:
        run = self._runs.get(run_id)
        if run is None or run.is_finished:
            return
        if run.status is DagsterRunStatus.CANCELING:
            self._runs.cancel(run, f"The run was stopped; {why}.")
            self._say(f"Run {run_id}: cancelled, since {why}.")
            return
        gone = f"The process of the run has gone: {why}."
        begun = self._runs.begun_steps(run)
        if self._runs.was_launched(run) and not begun:
            self._runs.report(run, f"{gone} The run is resumed.")
            self._runs.resume(run)
            self._say(f"Run {run_id}: resumed here, since {why}.")
            return
        steps = f" Step(s) had begun and not ended: {', '.join(begun)}." if begun else ""
        if self._runs.fail(run, f"{gone}{steps} Re-execute it from its failure."):
            self._say(f"Run {run_id}: failed, since {why}.")
        else:
            self._say(f"Run {run_id}: left to Dagster's run monitoring, since {why}.")
