"""Dagster's own priority tag under ``celery_executor``, whose steps have priority 5 without one."""

from pathlib import Path

from dagster import (
    Config,
    DagsterInstance,
    OpExecutionContext,
    execute_job,
    job,
    op,
    reconstructable,
)

from dagster_celery import celery_executor


class Where(Config):
    directory: str


@op
def note(context: OpExecutionContext, config: Where) -> None:
    with (Path(config.directory) / "order").open("a") as file:
        file.write(f"{context.op_handle.name}\n")


STEPS = {
    "below": {"dagster/priority": "-3"},
    "plain": {},
    "above": {"dagster/priority": "3"},
    "seven": {"dagster-celery/priority": "7"},
}


@job(executor_def=celery_executor)
def tagged_job() -> None:
    for name, tags in STEPS.items():
        note.alias(name).tag(tags)()


def test_it_counts_from_that_of_steps_without_a_tag(
    instance: DagsterInstance, tmp_path: Path
) -> None:
    ops = {name: {"config": {"directory": str(tmp_path)}} for name in STEPS}
    eager = {"config": {"config_source": {"task_always_eager": True}}}
    config = {"execution": eager, "ops": ops}
    with execute_job(reconstructable(tagged_job), instance, run_config=config) as result:
        assert result.success
    assert (tmp_path / "order").read_text().split() == ["above", "seven", "plain", "below"]
