"""How the loop of a run waits if there are no workers: by executing a task in its own process."""

from dagster_taskiq.errors import TaskFailedError
from dagster_taskiq.execution.perform import describe_failure, perform
from dagster_taskiq.execution.task_context import TaskContext, task_context
from dagster_taskiq.execution.tasks import register_tasks
from dagster_taskiq.runs.run_inbox import sleep
from dagster_taskiq.runs.step_client import InProcessTasks
from dagster_taskiq.runs.steps_in_flight import StepsInFlight
from dagster_taskiq.transport.results import PutBack


class InProcessRunner:
    """Executes the tasks of one run in this process, one after the other."""

    def __init__(self, tasks: InProcessTasks, steps: StepsInFlight) -> None:
        """Let the broker know the functions of our tasks; nothing is executed yet.

        Args:
            tasks: the tasks that are sent to this process.
            steps: the steps in flight; is told which tasks have ended.
        """
        register_tasks(tasks.broker)
        self._tasks = tasks
        self._steps = steps
        #: Whether a task has raised an error, instead of writing its step's failure alone.
        self.has_raised = False

    def wait(self, timeout: float) -> None:
        """Execute the next task that waits; if none does, sleep for ``timeout`` seconds."""
        claimed = self._tasks.claim()
        if claimed is None:
            sleep(timeout)
            return
        message, task = claimed
        with task_context(TaskContext("in process")):
            result = perform(self._tasks.broker, message)
        if isinstance(result, PutBack):  # a task of the user's own, which a step has sent
            self._tasks.put_back(task, result.message)
            return
        if result.error is not None:
            self.has_raised = True
            result.error = TaskFailedError(describe_failure(result.error))
        self._tasks.finish(task, result)
        self._steps.report_task_end(task.id)
