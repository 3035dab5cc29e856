"""What is sent to a worker for a step: its arguments, its queue and its priority."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Any

from dagster._core.definitions.reconstruct import ReconstructableJob
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.handle import ResolvedFromDynamicStepHandle, StepHandle
from dagster._core.execution.plan.outputs import StepOutputHandle
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.plan.state import KnownExecutionState, PastExecutionState
from dagster._core.execution.plan.step import ExecutionStep, UnresolvedMappedExecutionStep
from dagster._grpc.types import ExecuteStepArgs
from dagster._serdes import pack_value

from dagster_taskiq import tags
from dagster_taskiq.deprecations import warn_of_run_tags, warn_of_tags
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.execution.code_location import lines_of, source_of, working_directory_of
from dagster_taskiq.execution.pool_slots import pool_of
from dagster_taskiq.runs.run_options import RunOptions
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.wire.labels import CODE_LABEL, POOL_LABEL
from dagster_taskiq.wire.step_task_ids import step_task_id
from dagster_taskiq.wire.task_names import EXECUTE_PLAN
from dagster_taskiq.wire.task_request import TaskRequest

#: The mapping keys of each dynamic output that has come, by the key of its step and its name.
Mappings = Mapping[str, Mapping[str, Sequence[str] | None]]


class StepRequests:
    """Makes the task requests of one run; what they have in common is looked up once."""

    def __init__(
        self,
        options: RunOptions,
        context: PlanOrchestrationContext,
        plan: ExecutionPlan,
        settings: Settings,
    ) -> None:
        """Look at the whole plan, before anything of it is sent.

        Raises:
            ConfigError: a priority tag is no integer, or outputs are kept in memory.
        """
        _check_priorities(plan)
        _check_storage(plan)
        job = context.reconstructable_job
        _warn_of_older_tags(plan, job)
        self._plan = plan
        self._run_id = context.run_id
        self._job_name = context.dagster_run.job_name
        self._run_priority = tags.read_int_tag(context.dagster_run.tags, tags.RUN_PRIORITY_TAG)
        self._queue = settings.queue
        self._priority = settings.priority
        self._origin = job.get_python_origin()
        lines_with = partial(lines_of, self._origin)
        warn_of_run_tags(context.dagster_run.tags, lines_with, source_of(self._origin))
        self._labels = {CODE_LABEL: working_directory_of(self._origin)}
        self._instance_ref = context.instance.get_ref()
        self._retries = options.retries.for_inner_plan()
        self._common: Mapping[str, Any] = {
            "executable_dict": dict(job.to_dict()),
            "wake_on_output": not options.step_dependency_config.require_upstream_step_success,
        }

    def queue_of(self, step: ExecutionStep) -> str:
        """Return the queue that the step's tags name, else the configured one."""
        return tags.read_tag(step.tags, tags.QUEUE_TAG) or self._queue

    def priority_of(self, step: ExecutionStep) -> int:
        """Return the run's priority plus the step's.

        The step's priority is that of our tag, else the configured one, plus that of Dagster's own
        tag.
        """
        step_priority = tags.read_priority(step.tags, tags.PRIORITY_TAG, self._priority)
        return self._run_priority + step_priority

    def task_id(self, step: ExecutionStep, attempt: int, incarnation: int = 0) -> str:
        """Return the id of a step's task, see :func:`dagster_taskiq.wire.step_task_ids`."""
        return step_task_id(self._run_id, step.key, attempt, incarnation)

    def make(self, step: ExecutionStep, task_id: str, state: KnownExecutionState) -> TaskRequest:
        """Return the request to execute a step.

        Args:
            step: the step.
            task_id: the id of its task.
            state: the state of the run, as far as it is known.
        """
        args = ExecuteStepArgs(
            job_origin=self._origin,
            run_id=self._run_id,
            step_keys_to_execute=[step.key],
            instance_ref=self._instance_ref,
            retry_mode=self._retries,
            known_state=_state_for(step, self._plan, state),
            print_serialized_events=False,
        )
        pool = pool_of(step)
        return TaskRequest(
            id=task_id,
            name=EXECUTE_PLAN,
            kwargs={"execute_step_args_packed": pack_value(args), **self._common},
            queue=self.queue_of(step),
            priority=self.priority_of(step),
            run_id=self._run_id,
            step_key=step.key,
            job=self._job_name,
            labels={**self._labels, POOL_LABEL: pool} if pool else self._labels,
        )


def _check_priorities(plan: ExecutionPlan) -> None:
    for key in plan.step_keys_to_execute:
        step = plan.get_step_by_key(key)
        try:
            tags.read_int_tag(step.tags or {}, tags.PRIORITY_TAG)
        except ConfigError as error:
            raise ConfigError(f'Step "{key}": {error}') from None


def _warn_of_older_tags(plan: ExecutionPlan, job: ReconstructableJob) -> None:
    definition = job.get_definition()
    for key in plan.step_keys_to_execute:
        step = plan.get_step_by_key(key)
        node = definition.get_node(step.node_handle).definition
        # Only a function tells at which line of which file an op was defined.
        function = getattr(getattr(node, "compute_fn", None), "decorated_fn", None)
        code = getattr(function, "__code__", None)
        if code is not None:
            warn_of_tags(step.tags or {}, code.co_filename, code.co_firstlineno)


def _check_storage(plan: ExecutionPlan) -> None:
    if len(plan.step_keys_to_execute) > 1 and not plan.artifacts_persisted:
        raise ConfigError(
            "The job keeps step outputs in memory, where other processes do not see them. Use an "
            "IO manager that stores them where every worker can read: FilesystemIOManager on a "
            "shared path, S3, GCS, a database."
        )


def _state_for(
    step: ExecutionStep, plan: ExecutionPlan, state: KnownExecutionState
) -> KnownExecutionState:
    """Return the part of the run's state that one step needs: its size does not grow with others.

    A step asks which of its own inputs have been produced, in this run or in the ones that it
    repeats, how often it was tried itself, and which mapped steps it is or depends on.
    """
    inputs = [
        handle
        for step_input in step.step_inputs
        for handle in step_input.get_step_output_handle_dependencies()
    ]
    outputs = (StepOutputHandle(step.key, output.name) for output in step.step_outputs)
    attempts = state.previous_retry_attempts
    return state._replace(
        ready_outputs=state.ready_outputs.intersection(inputs),
        previous_retry_attempts={key: attempts[key] for key in (step.key,) if key in attempts},
        dynamic_mappings=_mappings_for(step, inputs, plan, state.dynamic_mappings),
        parent_state=_past_of({*inputs, *outputs}, state.parent_state),
    )


def _mappings_for(
    step: ExecutionStep, inputs: Sequence[StepOutputHandle], plan: ExecutionPlan, mappings: Mappings
) -> Mappings:
    """Return the mapping keys of the mapped steps that a step is or depends on.

    A mapped step has one; a step that collects has all of them, in their order. The other dynamic
    outputs stay, with no keys, so that the steps downstream of them are resolved as well.
    """
    needed: dict[tuple[str, str], dict[str, None]] = {}
    for handle in (step.handle, *(StepHandle.parse_from_key(each.step_key) for each in inputs)):
        if not isinstance(handle, ResolvedFromDynamicStepHandle):
            continue
        mapped = plan.get_step(handle.unresolved_form)
        if isinstance(mapped, UnresolvedMappedExecutionStep):
            source = (mapped.resolved_by_step_key, mapped.resolved_by_output_name)
            needed.setdefault(source, {})[handle.mapping_key] = None
    for each in inputs:
        if each.mapping_key is not None:
            needed.setdefault((each.step_key, each.output_name), {})[each.mapping_key] = None
    return {
        step_key: {
            # None means that the output was skipped.
            name: None if keys is None else list(needed.get((step_key, name), ()))
            for name, keys in outputs.items()
        }
        for step_key, outputs in mappings.items()
    }


def _past_of(
    handles: AbstractSet[StepOutputHandle], past: PastExecutionState | None
) -> PastExecutionState | None:
    """Return what earlier runs, of which this one is a re-execution, have produced of some outputs.

    Args:
        handles: the outputs.
        past: the run before this one, with the one before that, and so on.
    """
    if past is None:
        return None
    before = _past_of(handles, past.get_parent_state())
    return PastExecutionState(past.run_id, past.produced_outputs & handles, before)
