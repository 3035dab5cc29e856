"""What a child keeps of a run from step to step is what Dagster would have made anew."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import pytest
from dagster import (
    DagsterRun,
    DynamicOut,
    DynamicOutput,
    Field,
    JobDefinition,
    OpExecutionContext,
    StringSource,
    job,
    op,
    reconstructable,
)
from dagster._core.errors import DagsterExecutionStepNotFoundError, DagsterInvalidConfigError
from dagster._core.execution.api import create_execution_plan
from dagster._core.execution.plan.outputs import StepOutputHandle
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.plan.state import KnownExecutionState
from dagster._core.execution.retries import RetryMode
from dagster._core.snap import snapshot_from_execution_plan
from dagster._core.system_config.objects import ResolvedRunConfig
from dagster._grpc.types import ExecuteStepArgs

from dagster_taskiq.dagster_internals import run_config_cache, step_plans
from dagster_taskiq.dagster_internals.step_plans import MOST_PLANS, plan_of_step

#: An environment variable that the config of the job refers to.
VARIABLE = "STEP_PLANS_TEST"
CONFIG: dict[str, Any] = {"ops": {"source": {"config": {"name": {"env": VARIABLE}}}}}

Build = Callable[..., ResolvedRunConfig]


@op(config_schema={"words": Field([str], default_value=["a"]), "name": Field(StringSource)})
def source(context: OpExecutionContext) -> int:
    return len(context.op_config["words"])


@op(out=DynamicOut(int))
def spread(number: int) -> Iterator[DynamicOutput[int]]:
    yield DynamicOutput(number, mapping_key="m0")


@op
def link(number: int) -> int:
    return number + 1


@op
def total(numbers: list[int]) -> int:
    return sum(numbers)


@job
def spreading() -> None:
    total(spread(source()).map(link).collect())


#: What is known once two outputs have come, of which one step has been tried before.
SPREAD_OUT = KnownExecutionState(
    previous_retry_attempts={"link[m1]": 1},
    dynamic_mappings={"spread": {"result": ["m0", "m1"]}},
    ready_outputs={StepOutputHandle("spread", mapping_key="m1")},
)
NOTHING = KnownExecutionState()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(VARIABLE, "first")
    step_plans._kept.clear()
    yield
    step_plans._kept.clear()


@pytest.fixture
def build() -> Build:
    """How a child makes what a run's config says; this process makes it anew each time."""
    return partial(run_config_cache.RunConfigCache().build, ResolvedRunConfig.build)


def kept_plan(
    step: str, state: KnownExecutionState, run_id: str = "run", config: dict[str, Any] = CONFIG
) -> ExecutionPlan:
    target = reconstructable(spreading)
    args = ExecuteStepArgs(
        job_origin=target.get_python_origin(),
        run_id=run_id,
        step_keys_to_execute=[step],
        instance_ref=None,
        retry_mode=RetryMode.ENABLED,
        known_state=state,
    )
    run = DagsterRun(job_name="spreading", run_id=run_id, run_config=config)
    return plan_of_step(target, run, args, None)


@pytest.mark.oldest
def test_the_plan_of_each_step_is_the_one_that_dagster_makes() -> None:
    for step, state in (
        ("source", NOTHING),
        ("spread", NOTHING),
        ("spread", KnownExecutionState(previous_retry_attempts={"spread": 2})),
        ("link[m0]", SPREAD_OUT),
        ("link[m1]", SPREAD_OUT),
        ("total", SPREAD_OUT),
        ("source", NOTHING),
    ):
        mine = kept_plan(step, state)
        target = reconstructable(spreading)
        theirs = create_execution_plan(target, CONFIG, [step], known_state=state)
        assert mine.step_keys_to_execute == theirs.step_keys_to_execute == [step]
        assert mine.known_state == theirs.known_state
        assert mine.executable_map == theirs.executable_map
        assert mine.resolvable_map == theirs.resolvable_map
        assert mine.get_step_by_key(step) == theirs.get_step_by_key(step)
        assert (mine.artifacts_persisted, mine.executor_name) == (
            theirs.artifacts_persisted,
            theirs.executor_name,
        )
        assert snapshot_of(mine) == snapshot_of(theirs)


def snapshot_of(plan: ExecutionPlan) -> Any:
    return snapshot_from_execution_plan(plan, "snapshot")


@pytest.mark.oldest
def test_a_step_that_is_not_there_is_refused_each_time() -> None:
    for _ in range(2):
        with pytest.raises(DagsterExecutionStepNotFoundError):
            kept_plan("no_such_step", NOTHING)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, Any]]:
    """One entry for each whole plan that is made."""
    made: list[Mapping[str, Any]] = []

    def counted(*args: Any, **kwargs: Any) -> ExecutionPlan:
        made.append(kwargs)
        return create_execution_plan(*args, **kwargs)

    monkeypatch.setattr(step_plans, "create_execution_plan", counted)
    return made


def test_the_whole_plan_is_made_once_for_all_runs_that_have_the_same(
    made: list[Mapping[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for run_id in ("one", "two"):
        for step in ("source", "spread"):
            kept_plan(step, NOTHING, run_id)
    assert len(made) == 1
    for step in ("link[m0]", "link[m1]", "total"):
        kept_plan(step, SPREAD_OUT)
    assert len(made) == 1
    monkeypatch.setenv(VARIABLE, "second")
    kept_plan("source", NOTHING)
    assert len(made) == 2


def test_a_plan_is_forgotten_in_the_end(made: list[Mapping[str, Any]]) -> None:
    kept_plan("source", NOTHING)
    for number in range(MOST_PLANS):
        other = {"ops": {"source": {"config": {"name": f"another {number}"}}}}
        kept_plan("source", NOTHING, config=other)
    assert len(made) == 1 + MOST_PLANS
    assert len(step_plans._kept) == MOST_PLANS
    kept_plan("source", NOTHING)
    assert len(made) == 2 + MOST_PLANS


@pytest.mark.oldest
def test_a_child_can_keep_what_a_runs_config_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ResolvedRunConfig, "build", staticmethod(ResolvedRunConfig.build))
    assert run_config_cache.install()


def test_where_dagster_builds_configs_otherwise_nothing_is_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def build(job_def: JobDefinition, something_new: object) -> None:
        raise AssertionError

    monkeypatch.setattr(ResolvedRunConfig, "build", staticmethod(build))
    assert not run_config_cache.install()
    assert ResolvedRunConfig.build is build


def test_what_a_runs_config_says_is_what_dagster_makes_of_it(build: Build) -> None:
    theirs = ResolvedRunConfig.build(spreading, CONFIG)
    assert build(spreading, CONFIG) == theirs
    assert build(spreading, CONFIG) == theirs
    assert theirs.ops["source"].config == {"words": ["a"], "name": "first"}


def test_what_a_step_writes_into_its_config_is_not_there_for_the_next(build: Build) -> None:
    config = {"ops": {"source": {"config": {"name": "n", "words": ["b"]}}}}
    first = build(spreading, config)
    first.ops["source"].config["words"].append("c")
    first.original_config_dict["ops"].clear()
    config["ops"]["source"]["config"]["name"] = "m"
    second = build(spreading, config)
    assert second.ops["source"].config == {"words": ["b"], "name": "m"}
    second.ops["source"].config["words"].append("c")
    assert build(spreading, config).ops["source"].config == {"words": ["b"], "name": "m"}


def test_an_environment_that_has_changed_is_read_again(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert build(spreading, CONFIG).ops["source"].config["name"] == "first"
    monkeypatch.setenv(VARIABLE, "second")
    assert build(spreading, CONFIG).ops["source"].config["name"] == "second"


def test_a_wrong_config_is_refused_each_time(build: Build) -> None:
    for _ in range(2):
        with pytest.raises(DagsterInvalidConfigError):
            build(spreading, {"ops": {"unknown": {}}})


def test_a_plan_of_another_shape_than_expected_is_made_by_dagster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(step_plans, "_problem", lambda: "it has another field")
    plan = kept_plan("link[m1]", SPREAD_OUT)
    assert plan.step_keys_to_execute == ["link[m1]"]
    assert len(step_plans._kept) == 0
