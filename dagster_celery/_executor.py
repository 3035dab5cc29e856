"""``celery_executor``: the executor of dagster-celery, on a taskiq broker."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from dagster import (
    DagsterEvent,
    Field,
    InitExecutorContext,
    Noneable,
    Permissive,
    StringSource,
    executor,
    multiple_process_executor_requirements,
)
from dagster import _check as check
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.retries import RetryMode, get_retries_config

from dagster_celery._celery_app.conf import dict_wrapper
from dagster_celery._configuration import DEFAULT_CONFIG, configure
from dagster_celery._defaults import broker_url, result_backend
from dagster_taskiq.bulk_imports import bulk_imports
from dagster_taskiq.dagster_internals import whole_runs
from dagster_taskiq.errors import ServerUnavailableError
from dagster_taskiq.executor import TaskiqExecutor
from dagster_taskiq.runs.run_options import RunOptions

CELERY_CONFIG = {
    "broker": Field(
        Noneable(StringSource),
        is_required=False,
        description=(
            "URL of the broker, in the form of Celery or of taskiq_executor. Default: "
            "RabbitMQ on $DAGSTER_CELERY_BROKER_HOST, or on this machine."
        ),
    ),
    "backend": Field(
        Noneable(StringSource),
        is_required=False,
        default_value="rpc://",
        description="URL of the backend. Default: `rpc://`, the broker's own server.",
    ),
    "include": Field([str], is_required=False, description="Modules that every worker imports."),
    "config_source": Field(
        Noneable(Permissive()),
        is_required=False,
        description="Settings of Celery, by the names they have had since version 4.",
    ),
    "retries": get_retries_config(),
}


class CeleryExecutor(TaskiqExecutor):
    """A ``TaskiqExecutor`` that is configured with Celery's settings."""

    def __init__(
        self,
        retries: RetryMode,
        broker: str | None = None,
        backend: str | None = None,
        include: list[str] | None = None,
        config_source: Mapping[str, Any] | None = None,
    ) -> None:
        """Make the executor; nothing is connected until a run executes.

        Args:
            retries: whether a step that asks for a retry gets one.
            broker: Celery's broker URL.
            backend: Celery's result backend.
            include: modules that workers import.
            config_source: Celery's settings.

        Raises:
            ConfigError: a setting or URL that cannot be translated; the text names what to use.
        """
        check.inst_param(retries, "retries", RetryMode)
        self.broker = check.opt_str_param(broker, "broker", default=broker_url)
        self.backend = check.opt_str_param(backend, "backend", default=result_backend)
        self.include = check.opt_list_param(include, "include", of_type=str)
        source = check.opt_mapping_param(config_source, "config_source")
        self.config_source = dict_wrapper({**DEFAULT_CONFIG, **source})
        configuration = configure(broker, backend, self.include, source)
        super().__init__(configuration.settings, retries)

    @property
    def run_options(self) -> RunOptions:
        """What the loop of a run needs; a failed step is in the log, and is not raised."""
        return replace(super().run_options, raises_step_errors=False)

    def execute(
        self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan
    ) -> Iterator[DagsterEvent]:
        """Run the plan's steps on workers; yield the events of each step when it has ended.

        Args:
            plan_context: Dagster's context of the run.
            execution_plan: the steps to execute.

        Raises:
            as ``TaskiqExecutor.execute``.
        """
        # Imported here, as it imports taskiq, which a code location that only defines jobs does
        # not need.
        with bulk_imports():
            from dagster_celery._step_events import by_step  # noqa: PLC0415
            from dagster_celery._submission_error import with_submission_error  # noqa: PLC0415

        events = by_step(super().execute(plan_context, execution_plan))
        return with_submission_error(plan_context, events, _is_unavailable)

    @staticmethod
    def for_cli(
        broker: str | None = None,
        backend: str | None = None,
        include: list[str] | None = None,
        config_source: Mapping[str, Any] | None = None,
    ) -> "CeleryExecutor":
        """Return an executor for its :meth:`app_args` alone, which retries no step."""
        return CeleryExecutor(
            retries=RetryMode(RetryMode.DISABLED),
            broker=broker,
            backend=backend,
            include=include,
            config_source=config_source,
        )

    def app_args(self) -> dict[str, Any]:
        """Return the arguments for ``make_app``."""
        return {
            "broker": self.broker,
            "backend": self.backend,
            "include": self.include,
            "config_source": self.config_source,
            "retries": self.retries,
        }


def _is_unavailable(error: Exception) -> bool:
    """Whether the broker has not answered for so long that the run ends: nothing can be sent."""
    return isinstance(error, ServerUnavailableError)


@executor(
    name="celery",
    config_schema=CELERY_CONFIG,
    requirements=multiple_process_executor_requirements(),
)
def celery_executor(init_context: InitExecutorContext) -> CeleryExecutor:
    """Executor of dagster-celery, which runs each step as a task on a taskiq broker.

    It takes the configuration that dagster-celery projects have: ``broker``, ``backend``,
    ``include``, ``config_source`` and ``retries``. New jobs take ``taskiq_executor``.
    """
    config: Mapping[str, Any] = init_context.executor_config
    return CeleryExecutor(
        broker=config.get("broker"),
        backend=config.get("backend"),
        config_source=config.get("config_source"),
        include=config.get("include"),
        retries=RetryMode.from_config(config["retries"]) or RetryMode.ENABLED,
    )


whole_runs.keep_for(celery_executor)
