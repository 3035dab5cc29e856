"""The plan of a job, kept from one step to the next, also to a step of another run."""

import inspect
from functools import cache

from dagster._core.definitions.reconstruct import ReconstructableJob
from dagster._core.definitions.repository_definition import RepositoryLoadData
from dagster._core.execution.api import create_execution_plan
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.plan.state import KnownExecutionState
from dagster._core.storage.dagster_run import DagsterRun
from dagster._core.system_config.objects import ResolvedRunConfig
from dagster._grpc.types import ExecuteStepArgs

from dagster_taskiq.dagster_internals.job_cache import JobCache
from dagster_taskiq.dagster_internals.part import DagsterPart

#: How many plans are kept: a worker has the steps of few jobs at a time.
MOST_PLANS = 4

#: The fields of a plan: one that is not known here might be shared between the copies.
_FIELDS = {
    *("step_dict", "executable_map", "resolvable_map", "step_handles_to_execute", "known_state"),
    *("artifacts_persisted", "step_dict_by_key", "executor_name", "repository_load_data"),
}


def _check() -> str:
    fields = set(ExecutionPlan._fields)
    if fields != _FIELDS:
        return f"the fields {sorted(fields ^ _FIELDS)} are new, or missing"
    parameters = list(inspect.signature(ExecutionPlan.build_subset_plan).parameters)
    expected = ["self", "step_keys_to_execute", "job_def", "resolved_run_config"]
    if parameters[: len(expected)] != expected:
        return f"build_subset_plan has the parameters {parameters}"
    return "" if hasattr(ExecutionPlan, "resolve") else "there is no resolve"


PART = DagsterPart(
    name="cached step plans",
    touches="ExecutionPlan, with its fields, resolve and build_subset_plan (read)",
    why=(
        "To execute one step, Dagster plans the whole job and then leaves out all other steps, so "
        "a step costs more, the more steps there are. A child makes the whole plan once, for as "
        "long as nothing that it is made of has changed, without the mapping keys of dynamic "
        "outputs. The state of a step, with the mapping keys, is then added as Dagster adds it."
    ),
    otherwise="The whole job is planned for each step.",
    check=_check,
)

_kept: JobCache[tuple[ExecutionPlan, ResolvedRunConfig]] = JobCache(MOST_PLANS)


def plan_of_step(
    job: ReconstructableJob,
    run: DagsterRun,
    args: ExecuteStepArgs,
    load_data: RepositoryLoadData | None,
) -> ExecutionPlan:
    """Return the plan that ``create_execution_plan`` makes for one step of a run.

    Args:
        job: the run's job, as it is loaded in this process.
        run: the run.
        args: the step, and the known state of the run.
        load_data: what the run's repository was loaded with, if that was recorded.

    Raises:
        any error of Dagster's about a job that cannot be loaded or planned, or has no such step.
    """
    state = args.known_state or KnownExecutionState()
    keys = list(args.step_keys_to_execute or ())
    if _problem():
        return create_execution_plan(
            job, run.run_config, keys, known_state=state, repository_load_data=load_data
        )
    definition = job.get_definition()

    def make() -> tuple[ExecutionPlan, ResolvedRunConfig]:
        plan = create_execution_plan(job, run.run_config, repository_load_data=load_data)
        return plan, ResolvedRunConfig.build(definition, run.run_config)

    whole, config = _kept.get(definition, run.run_config, make, load_data)
    # Resolving what depends on dynamic outputs changes these.
    own = whole._replace(
        known_state=state,
        step_dict=dict(whole.step_dict),
        step_dict_by_key=dict(whole.step_dict_by_key),
        executable_map=dict(whole.executable_map),
        resolvable_map=dict(whole.resolvable_map),
    )
    if state.dynamic_mappings:
        own.resolve(state.dynamic_mappings)
    return own.build_subset_plan(keys, definition, config)


@cache
def _problem() -> str:
    return PART.find_problem()
