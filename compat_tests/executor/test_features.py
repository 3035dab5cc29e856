"""What a job may be made of, and that it means here what it means in process."""

from collections import Counter
from collections.abc import Sequence

import pytest
from dagster import (
    AssetCheckKey,
    AssetKey,
    DagsterEvent,
    DagsterEventType,
    DagsterRunStatus,
)
from dagster._core.errors import DagsterSubprocessError

from compat_tests.brokers import POSTGRES_STORAGE
from compat_tests.executor import jobs
from compat_tests.executor.runs import House, Outcome
from compat_tests.executor.scratch import Scratch

SUCCESS, FAILURE = DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE


@pytest.mark.oldest
def test_values_flow_through_ops_chains_and_nested_graphs(house: House, scratch: Scratch) -> None:
    outcome = house.run(jobs.values, scratch, outputs=["total"])
    assert outcome.status is SUCCESS
    # nested: 2*2*2 + 2*2 = 12; chain: 2*2*2 = 8.
    assert outcome.outputs == {"total": 20}
    assert outcome.succeeded == {
        "two",
        "nested.twice.double",
        "nested.twice.double_2",
        "nested.once",
        "nested.add",
        "chain.double",
        "chain.double_2",
        "total",
    }
    assert scratch.total("double:") == 5
    assert scratch.count("two") == 1


@pytest.mark.oldest
def test_single_multi_and_graph_assets_are_materialized_with_their_checks(
    house: House, scratch: Scratch
) -> None:
    outcome = house.run(jobs.assets_job, scratch)
    assert outcome.status is SUCCESS
    made = {event.asset_key for event in outcome.of(DagsterEventType.ASSET_MATERIALIZATION)}
    assert made == {jobs.RAW, jobs.LOW, jobs.HIGH, jobs.SHAPED}
    (check,) = outcome.of(DagsterEventType.ASSET_CHECK_EVALUATION)
    assert check.asset_check_evaluation_data.passed
    assert check.asset_check_evaluation_data.asset_check_key == AssetCheckKey(
        jobs.RAW, "raw_is_odd"
    )
    assert scratch.count("raw") == 1


@pytest.mark.oldest
def test_a_partitioned_asset_sees_the_partition_of_its_run(house: House, scratch: Scratch) -> None:
    outcome = house.run(jobs.letters_job, scratch, tags={"dagster/partition": "b"})
    assert outcome.status is SUCCESS
    assert scratch.count("letter:b") == 1
    (event,) = outcome.of(DagsterEventType.ASSET_MATERIALIZATION)
    assert event.partition == "b"
    known = house.instance.get_materialized_partitions(AssetKey("letter"))
    assert "b" in known


def test_a_selection_of_assets_materializes_only_these(house: House, scratch: Scratch) -> None:
    outcome = house.run(jobs.assets_job, scratch, asset_selection=[jobs.RAW])
    made = {event.asset_key for event in outcome.of(DagsterEventType.ASSET_MATERIALIZATION)}
    assert (outcome.status, made) == (SUCCESS, {jobs.RAW})


@pytest.mark.oldest
def test_a_blocking_asset_check_that_fails_keeps_what_is_below_from_running(
    house: House, scratch: Scratch
) -> None:
    outcome = house.run(jobs.suspects_job, scratch)
    assert outcome.status is FAILURE
    (check,) = outcome.of(DagsterEventType.ASSET_CHECK_EVALUATION)
    assert not check.asset_check_evaluation_data.passed
    assert scratch.count("upon_suspect") == 0


@pytest.mark.parametrize("house", ["embedded", "memory", POSTGRES_STORAGE], indirect=True)
@pytest.mark.oldest
def test_dynamic_outputs_are_mapped_chained_and_collected(house: House, scratch: Scratch) -> None:
    outcome = house.run(jobs.dynamic, scratch, outputs=["total"])
    assert outcome.status is SUCCESS
    assert outcome.outputs == {"total": 4 * (0 + 1 + 2)}
    assert {"double[n0]", "double[n2]", "again[n1]"} <= outcome.succeeded


def test_a_dynamic_output_of_nothing_is_collected_as_nothing(
    house: House, scratch: Scratch
) -> None:
    config = {"ops": {"fan": {"config": {"size": 0}}}}
    outcome = house.run(jobs.dynamic, scratch, config=config, outputs=["total"])
    assert (outcome.status, outcome.outputs) == (SUCCESS, {"total": 0})
    assert scratch.lines("total") == ["[]"]


@pytest.mark.oldest
def test_what_a_fan_out_has_collected_fans_out_again(house: House, scratch: Scratch) -> None:
    outcome = house.run(jobs.dynamic_again, scratch, outputs=["first", "after", "last"])
    assert outcome.status is SUCCESS
    first = (0 + 1) + (2 + 1) + (4 + 1)
    last = 2 * sum(range(first))
    assert outcome.outputs == {"first": first, "after": first + 6, "last": last}
    assert outcome.skipped == {"none"}
    retried = outcome.steps(DagsterEventType.STEP_UP_FOR_RETRY)
    assert sorted(retried) == [f"chained.breaks_once[n{number}]" for number in range(3)]


@pytest.mark.oldest
def test_a_missing_optional_output_skips_its_steps_and_fan_in_takes_the_rest(
    house: House, scratch: Scratch
) -> None:
    outcome = house.run(jobs.skips, scratch, outputs=["some"])
    assert outcome.status is SUCCESS
    assert outcome.skipped == {"dropped", "after_dropped", "none"}
    assert outcome.outputs == {"some": 10}
    assert scratch.lines("total") == ["[10]"]


@pytest.mark.oldest
def test_retries_by_policy_and_by_request_are_tried_as_often_as_was_said(
    house: House, scratch: Scratch
) -> None:
    outcome = house.run(jobs.retries, scratch, outputs=["add"])
    assert outcome.outputs == {"add": 7}
    assert scratch.lines("lucky") == ["0", "1", "2"]
    assert scratch.count("asks") == 2
    # Its retries are used up: two beyond the first try.
    assert scratch.count("never") == 3
    assert (outcome.status, outcome.failed) == (FAILURE, {"never_content"})
    waits = [
        event.step_retry_data.seconds_to_wait
        for event in outcome.of(DagsterEventType.STEP_UP_FOR_RETRY, "third_time_lucky")
    ]
    assert waits == pytest.approx([0.05, 0.15])
    assert len(outcome.of(DagsterEventType.STEP_RESTARTED)) == 5


@pytest.mark.oldest
def test_retries_that_are_disabled_are_not_made(house: House, scratch: Scratch) -> None:
    outcome = house.run(jobs.retries, scratch, executor={"retries": {"disabled": {}}})
    assert outcome.status is FAILURE
    assert [scratch.count(name) for name in ("lucky", "asks", "never")] == [1, 1, 1]


def test_a_failure_that_forbids_retries_fails_with_its_own_words(
    house: House, scratch: Scratch
) -> None:
    outcome = house.run(jobs.gives_up_job, scratch)
    assert "no use in trying" in outcome.failure("gives_up")


@pytest.mark.oldest
def test_hooks_of_a_job_run_for_success_and_failure_before_the_run_ends(
    house: House, scratch: Scratch
) -> None:
    outcome = house.run(jobs.hooked, scratch)
    # The run has just ended, and the notes are there.
    assert sorted(scratch.lines("hooks")) == ["breaks failure ZeroDivisionError", "two success"]
    kinds = [event.event_type for event in outcome.events]
    last_hook = max(
        index for index, kind in enumerate(kinds) if kind is DagsterEventType.HOOK_COMPLETED
    )
    assert last_hook < kinds.index(DagsterEventType.RUN_FAILURE)


def test_hooks_of_an_op_run_for_that_op_alone(house: House, scratch: Scratch) -> None:
    house.run(jobs.hooked_op, scratch)
    assert scratch.lines("hooks") == ["two success"]


@pytest.mark.oldest
def test_a_resource_that_cannot_be_set_up_fails_its_step_and_not_the_engine(
    house: House, scratch: Scratch
) -> None:
    outcome = house.run(jobs.impatient_job, scratch)
    assert (outcome.status, outcome.failed) == (FAILURE, {"impatient"})
    assert "the database is not up" in outcome.failure("impatient")
    assert scratch.count("impatient") == 0


@pytest.mark.oldest
def test_a_resource_that_cannot_be_set_up_at_once_is_retried_by_the_policy(
    house: House, scratch: Scratch
) -> None:
    outcome = house.run(jobs.patient_job, scratch)
    assert outcome.status is SUCCESS
    assert outcome.steps(DagsterEventType.STEP_UP_FOR_RETRY) == ["patient"]
    assert (scratch.count("resource"), scratch.count("patient")) == (2, 1)


@pytest.mark.oldest
def test_op_config_and_resource_config_reach_the_step(house: House, scratch: Scratch) -> None:
    config = {
        "ops": {"multiplied": {"config": {"number": 6}}},
        "resources": {"factor": {"config": {"factor": 7}}},
    }
    outcome = house.run(jobs.configured, scratch, config=config, outputs=["double"])
    assert outcome.outputs == {"double": 84}


@pytest.mark.oldest
def test_a_selection_of_ops_runs_only_these(house: House, scratch: Scratch) -> None:
    outcome = house.run(
        jobs.values, scratch, op_selection=["two", "chain"], outputs=["chain.double_2"]
    )
    assert outcome.succeeded == {"two", "chain.double", "chain.double_2"}
    assert scratch.total("add:") == 0


@pytest.mark.oldest
def test_a_run_taken_up_from_its_failure_repeats_nothing_that_succeeded(
    house: House, scratch: Scratch
) -> None:
    first = house.run(jobs.breaks_in_the_middle, scratch)
    assert (first.status, first.failed) == (FAILURE, {"breaks"})
    assert "the user's own words" in first.failure("breaks")
    scratch.note("mended")
    second = house.run(jobs.breaks_in_the_middle, scratch, again=first, outputs=["last"])
    assert (second.status, second.outputs) == (SUCCESS, {"last": 22})
    assert second.succeeded == {"breaks", "after", "last"}
    assert (scratch.count("two"), scratch.count("breaks")) == (2, 2)


def test_a_run_taken_up_from_a_failure_within_a_dynamic_fan_out_goes_on_there(
    house: House, scratch: Scratch
) -> None:
    first = house.run(jobs.dynamic_with_a_break, scratch)
    assert (first.status, first.failed) == (FAILURE, {"breaks_at_one[n1]"})
    scratch.note("mended")
    second = house.run(jobs.dynamic_with_a_break, scratch, again=first, outputs=["total"])
    assert (second.status, second.outputs) == (SUCCESS, {"total": 3})
    assert second.succeeded == {"breaks_at_one[n1]", "total"}


@pytest.mark.oldest
def test_the_failure_of_a_step_has_the_users_own_stack(house: House, scratch: Scratch) -> None:
    outcome = house.run(jobs.breaks_in_the_middle, scratch)
    text = outcome.failure("breaks")
    assert 'raise ZeroDivisionError("the user\'s own words")' in text
    assert "jobs.py" in text


@pytest.mark.oldest
def test_raise_on_error_raises_with_the_words_of_the_step(house: House, scratch: Scratch) -> None:
    with pytest.raises(DagsterSubprocessError, match="the user's own words"):
        house.run(jobs.breaks_in_the_middle, scratch, raise_on_error=True)


@pytest.mark.each_broker
def test_each_step_says_where_it_was_sent_and_who_started_it(
    fleet: House, scratch: Scratch
) -> None:
    outcome = fleet.run(jobs.suspects_job, scratch)
    for step in outcome.succeeded:
        (sent,) = outcome.of(DagsterEventType.STEP_WORKER_STARTING, step)
        (started,) = outcome.of(DagsterEventType.STEP_WORKER_STARTED, step)
        queue = sent.engine_event_data.metadata["queue"].value
        assert queue == ("side" if step == "suspect" else fleet.settings.queue)
        worker = started.engine_event_data.metadata["worker"].value
        assert str(worker).startswith("shared-")
        # The loop writes that it has sent a step while a worker may already have started it.
        assert order_of(outcome, step) == [
            DagsterEventType.STEP_WORKER_STARTED,
            DagsterEventType.STEP_START,
        ]


def test_a_run_yields_each_event_of_its_steps_once(fleet: House, scratch: Scratch) -> None:
    outcome = fleet.run(jobs.suspects_job, scratch)
    assert {event.event_type for event in outcome.yielded} > {
        DagsterEventType.STEP_WORKER_STARTING,
        DagsterEventType.STEP_WORKER_STARTED,
        DagsterEventType.STEP_SUCCESS,
    }
    assert told(outcome.yielded) == told(outcome.events)


def told(events: Sequence[DagsterEvent]) -> Counter[tuple[str, str, str | None]]:
    return Counter(
        (event.event_type_value, event.step_key, event.message)
        for event in events
        if event.step_key is not None
    )


def order_of(outcome: Outcome, step: str) -> list[DagsterEventType]:
    wanted = (
        DagsterEventType.STEP_WORKER_STARTED,
        DagsterEventType.STEP_START,
    )
    mine = [event.event_type for event in outcome.events if event.step_key == step]
    return [kind for kind in mine if kind in wanted]


@pytest.mark.oldest
def test_what_a_step_and_its_subprocesses_print_is_kept_for_that_step(
    house: House, scratch: Scratch
) -> None:
    # In a process of its own: pytest's capture gives sys.stdout a file that is not descriptor 1, so
    # that what a subprocess prints would go elsewhere in an in-process run.
    with house.started(jobs.talkative, scratch) as process:
        outcome = process.wait()
    for step in ("talks", "talks_too"):
        out, err = logs_of(outcome, step)
        assert out.splitlines() == ["printed by python", "printed by sh"]
        assert "complained by python" in err
        assert "complained by sh" in err
        assert "said to dagster" in err


def logs_of(outcome: Outcome, step: str) -> tuple[str, str]:
    """Return what Dagster's own user interface would show as a step's output."""
    (captured,) = [
        event
        for event in outcome.of(DagsterEventType.LOGS_CAPTURED)
        if step in (event.logs_captured_data.step_keys or ())
    ]
    manager = outcome.instance.compute_log_manager
    key = manager.build_log_key_for_run(outcome.run_id, captured.logs_captured_data.file_key)
    data = manager.get_log_data(key)
    return (data.stdout or b"").decode(), (data.stderr or b"").decode()
