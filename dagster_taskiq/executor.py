"""``taskiq_executor``: Dagster's executor definition, from config to the run's loop."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dagster import (
    DagsterEvent,
    Executor,
    InitExecutorContext,
    executor,
    multiple_process_executor_requirements,
)
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.retries import RetryMode
from dagster._core.execution.step_dependency_config import StepDependencyConfig

from dagster_taskiq.bulk_imports import bulk_imports
from dagster_taskiq.dagster_internals import whole_runs
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.runs.run_options import RunOptions
from dagster_taskiq.settings.schema import EXECUTOR_FIELDS
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.settings.worker_fleet import worker_settings


class TaskiqExecutor(Executor):
    """Executes each step of a run as a task on a taskiq broker."""

    def __init__(
        self,
        settings: Settings,
        retries: RetryMode = RetryMode.ENABLED,
        max_concurrent: int | None = None,
        tag_concurrency_limits: Sequence[Mapping[str, Any]] = (),
        step_dependency_config: StepDependencyConfig | None = None,
    ) -> None:
        """Make the executor; nothing is connected until a run executes.

        Args:
            settings: broker, backend, and what the run and its workers must have in common.
            retries: whether a step that asks for a retry gets one (Dagster's ``retries``).
            max_concurrent: how many steps of one run may be in flight; ``None`` for no limit.
            tag_concurrency_limits: Dagster's limits by tag, for one run.
            step_dependency_config: whether a step may start before its upstream step has ended.

        Raises:
            ConfigError: ``max_concurrent`` is less than one.
        """
        if max_concurrent is not None and max_concurrent < 1:
            raise ConfigError(f'"max_concurrent" must be at least 1, but it is {max_concurrent}.')
        self.settings = settings
        self.max_concurrent = max_concurrent
        self.tag_concurrency_limits = [dict(limit) for limit in tag_concurrency_limits]
        self._retries = retries
        self._step_dependency_config = step_dependency_config or StepDependencyConfig.default()

    @property
    def retries(self) -> RetryMode:
        """Whether steps are retried."""
        return self._retries

    @property
    def step_dependency_config(self) -> StepDependencyConfig:
        """Whether a step may start before its upstream steps have ended."""
        return self._step_dependency_config

    @property
    def run_options(self) -> RunOptions:
        """What the loop of a run needs of this executor."""
        return RunOptions(
            settings=self.settings,
            retries=self.retries,
            max_concurrent=self.max_concurrent,
            tag_concurrency_limits=self.tag_concurrency_limits,
            step_dependency_config=self.step_dependency_config,
            report_error=self.log_failure_or_retry_event_after_error,
        )

    def execute(
        self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan
    ) -> Iterator[DagsterEvent]:
        """Run the plan's steps on workers, and yield the run's events as they are logged.

        Raises:
            ServerUnavailableError: broker or backend does not answer.
            ConfigError: the settings or a priority tag cannot work.
            DagsterExecutionInterruptedError: the run was interrupted.
            DagsterSubprocessError: a step failed, and the caller wants errors raised.
        """
        # Imported here: a code location that only defines jobs does not need taskiq.
        with bulk_imports():
            from dagster_taskiq.runs.run_loop import RunLoop  # noqa: PLC0415

        return RunLoop(self.run_options, plan_context, execution_plan).events()

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "TaskiqExecutor":
        """Make the executor from a config that Dagster has checked against its schema.

        Raises:
            ConfigError: a value is out of range, or names a variable that is not set.
        """
        return cls(
            Settings.from_dict(config, worker_settings()),
            retries=RetryMode.from_config(config["retries"]) or RetryMode.ENABLED,
            max_concurrent=config.get("max_concurrent"),
            tag_concurrency_limits=config.get("tag_concurrency_limits") or (),
            step_dependency_config=StepDependencyConfig.from_config(
                config.get("step_dependency_config")
            ),
        )


@executor(
    name="taskiq",
    config_schema=EXECUTOR_FIELDS,
    requirements=multiple_process_executor_requirements(),
)
def taskiq_executor(init_context: InitExecutorContext) -> TaskiqExecutor:
    """Dagster executor that runs each step as a task on a taskiq broker.

    With no configuration it uses the database of Dagster's storage if that is a PostgreSQL, else
    the embedded broker, a SQLite file under ``$DAGSTER_HOME``; start a worker there with
    ``dagster-taskiq worker start``. The fields are documented in its schema and in
    ``docs/reference/settings.md``.

    .. code-block:: python

        from dagster import job
        from dagster_taskiq import taskiq_executor

        @job(executor_def=taskiq_executor)
        def my_job(): ...
    """
    return TaskiqExecutor.from_config(init_context.executor_config)


whole_runs.keep_for(taskiq_executor)
