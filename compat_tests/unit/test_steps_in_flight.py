"""Which steps are in flight, finalizing or unsent, as their ends and those of their tasks come."""

import pytest

from compat_tests.unit.doubles import make_step
from dagster_taskiq.runs.steps_in_flight import StepsInFlight


@pytest.fixture
def steps() -> StepsInFlight:
    return StepsInFlight()


def test_a_step_is_in_flight_until_its_end_and_its_task_has_ended(steps: StepsInFlight) -> None:
    step = make_step("a", "task-a")
    steps.add(step)
    assert (steps.keys, steps.task_ids, len(steps)) == (["a"], ["task-a"], 1)
    assert steps.get("a") is step
    steps.end_step(step)
    assert (steps.keys, steps.finalizing) == ([], [step])
    assert steps.get("a") is None
    steps.report_task_end("task-a")
    assert steps.take_ended() == []
    assert steps.finalizing == []


def test_a_task_that_ends_before_its_step_is_reported_once(steps: StepsInFlight) -> None:
    silent, other = make_step("a"), make_step("b")
    steps.add(silent, other)
    steps.report_task_end("a")
    assert steps.take_ended() == [silent]
    assert steps.take_ended() == []
    assert steps.keys == ["a", "b"]


def test_a_step_whose_task_has_ended_does_not_finalize(steps: StepsInFlight) -> None:
    step = make_step("a")
    steps.add(step)
    steps.end_task(step)
    steps.end_step(step)
    assert step.task_ended
    assert (steps.keys, steps.finalizing) == ([], [])


def test_a_step_that_ended_while_its_task_was_looked_at_is_finished(steps: StepsInFlight) -> None:
    """The task is known to have ended after the end of its step was read."""
    step = make_step("a")
    steps.add(step)
    steps.report_task_end("a")
    assert steps.take_ended() == [step]
    steps.end_step(step)
    assert steps.finalizing == [step]
    steps.end_task(step)
    assert steps.finalizing == []


def test_the_end_of_a_task_that_belongs_to_no_step_changes_nothing(steps: StepsInFlight) -> None:
    steps.add(make_step("a"))
    steps.report_task_end("another loop's")
    assert steps.take_ended() == []
    assert steps.keys == ["a"]


def test_a_retry_takes_the_place_of_the_attempt_before(steps: StepsInFlight) -> None:
    first, second = make_step("a", "first"), make_step("a", "second")
    steps.add(first)
    steps.end_step(first)
    steps.add(second)
    assert steps.has(second)
    assert not steps.has(first)
    assert steps.finalizing == [first]
    steps.report_task_end("first")
    assert steps.take_ended() == []
    assert (steps.keys, steps.finalizing) == (["a"], [])


def test_what_the_broker_has_not_taken_is_unsent_until_it_is_sent_or_ends(
    steps: StepsInFlight,
) -> None:
    first, second, third = (make_step(key) for key in "abc")
    steps.add(first, second, third)
    steps.mark_unsent(first, second)
    assert steps.unsent == [first, second]
    assert [steps.is_unsent(step) for step in (first, second, third)] == [True, True, False]
    steps.mark_sent(first)
    assert steps.unsent == [second]
    steps.end_step(second)  # its message was sent after all
    assert steps.unsent == []


def test_an_interrupted_run_drops_every_step_whose_task_has_ended(steps: StepsInFlight) -> None:
    stopped, running, done = (make_step(key) for key in "abc")
    steps.add(stopped, running, done)
    steps.end_step(done)
    for task_id in ("a", "c"):
        steps.report_task_end(task_id)
    assert steps.drop_ended() == [stopped]
    assert (steps.keys, steps.finalizing) == (["b"], [])
    assert steps.drop_ended() == []


def test_a_step_may_be_taken_out_while_the_steps_are_iterated(steps: StepsInFlight) -> None:
    steps.add(*(make_step(key) for key in "abc"))
    for step in steps:
        steps.remove(step)
    assert steps.keys == []
