"""How one run is executed, as its executor was configured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dagster import DagsterEvent
from dagster._core.execution.context.system import IStepContext
from dagster._core.execution.plan.state import KnownExecutionState
from dagster._core.execution.retries import RetryMode
from dagster._core.execution.step_dependency_config import StepDependencyConfig
from dagster_shared.error import SerializableErrorInfo

from dagster_taskiq.settings.settings import Settings


@dataclass(frozen=True)
class RunOptions:
    """What the loop of a run needs of the executor."""

    settings: Settings
    #: Whether a step that asks for a retry gets one.
    retries: RetryMode
    #: How many steps may be in flight; ``None`` for no limit.
    max_concurrent: int | None
    #: Dagster's limits by tag.
    tag_concurrency_limits: Sequence[Mapping[str, Any]]
    #: Whether a step may start before its upstream step has ended.
    step_dependency_config: StepDependencyConfig
    #: Writes the failure of a step, or its retry if the op's policy allows one. It is a method of
    #: Dagster's ``Executor``.
    report_error: Callable[[IStepContext, SerializableErrorInfo, KnownExecutionState], DagsterEvent]
    #: Whether a failed step is raised to a caller that wants errors raised. What Dagster's log has
    #: of it does not depend on that. If the task of the step has raised the error as well, in this
    #: process, the caller gets it in any case.
    raises_step_errors: bool = True
