"""The plan of a job, kept from one step to the next, also when that is of another run.

To execute one step, Dagster plans the whole job and then leaves out all other steps, so that a step
costs the more the more of them there are. In a child the whole plan is made once, for as long as
nothing that it is made of has changed; what a step has of its own is then put in, in the same way.
"""

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dagster import JobDefinition
from dagster._core.definitions.reconstruct import ReconstructableJob
from dagster._core.definitions.repository_definition import RepositoryLoadData
from dagster._core.execution.api import create_execution_plan
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.plan.state import KnownExecutionState
from dagster._core.storage.dagster_run import DagsterRun
from dagster._core.system_config.objects import ResolvedRunConfig
from dagster._grpc.types import ExecuteStepArgs
from dagster._serdes import serialize_value

#: How many plans are kept: a worker has the steps of few jobs at a time.
MOST_PLANS = 4


@dataclass(frozen=True, eq=False)
class _Kept:
    """A plan, and what it was made of."""

    #: Code that is loaded anew may plan otherwise: it is another definition then.
    definition: JobDefinition
    run_config: Mapping[str, Any]
    #: What dynamic outputs have become: nothing else of a run's state decides what steps there are.
    mappings: str
    load_data: RepositoryLoadData | None
    #: Config may refer to it.
    environment: Mapping[str, str]
    plan: ExecutionPlan
    config: ResolvedRunConfig


#: The one that was used last is first.
_kept: list[_Kept] = []


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
        args: which step, and what is known of the run.
        load_data: what the run's repository was loaded with, if that is on record.

    Raises:
        whatever Dagster raises where the job cannot be loaded or planned, or has no such step.
    """
    state = args.known_state or KnownExecutionState()
    kept = _whole_plan(job, run, state, load_data)
    # Making a part of a plan may add to these, where outputs are dynamic.
    own = kept.plan._replace(
        known_state=state,
        step_dict=dict(kept.plan.step_dict),
        step_dict_by_key=dict(kept.plan.step_dict_by_key),
    )
    keys = list(args.step_keys_to_execute or ())
    return own.build_subset_plan(keys, kept.definition, kept.config)


def _whole_plan(
    job: ReconstructableJob,
    run: DagsterRun,
    state: KnownExecutionState,
    load_data: RepositoryLoadData | None,
) -> _Kept:
    definition = job.get_definition()
    state = KnownExecutionState(dynamic_mappings=state.dynamic_mappings)
    mappings, environment = serialize_value(state), dict(os.environ)
    for kept in _kept:
        if (
            kept.definition is definition
            and kept.mappings == mappings
            and kept.run_config == run.run_config
            and kept.load_data == load_data
            and kept.environment == environment
        ):
            _kept.remove(kept)
            break
    else:
        plan = create_execution_plan(
            job, run.run_config, known_state=state, repository_load_data=load_data
        )
        kept = _Kept(
            definition,
            copy.deepcopy(run.run_config),
            mappings,
            load_data,
            environment,
            plan,
            ResolvedRunConfig.build(definition, run.run_config),
        )
    _kept.insert(0, kept)
    del _kept[MOST_PLANS:]
    return kept
