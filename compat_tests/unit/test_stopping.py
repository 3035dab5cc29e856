"""How long the loop of a run that is stopped waits for its steps."""

from dataclasses import replace

from dagster_taskiq.runs.stopping import STOPPING_SECONDS, stopping_seconds
from dagster_taskiq.wire.records import Worker

WORKER = Worker("id", "w", "host", 1, ("q",), 2, "1.0", lease=4.0, kill_grace=120.0)


def test_steps_have_the_longest_grace_of_the_workers_that_may_run_them() -> None:
    quick = replace(WORKER, kill_grace=1.0)
    assert stopping_seconds([quick, WORKER], lease=4.0) == 120.0 + STOPPING_SECONDS
    # One that is lost stops nothing any more.
    assert stopping_seconds([quick, replace(WORKER, age=5.0)], lease=4.0) == 4.0 + STOPPING_SECONDS


def test_where_no_worker_is_known_a_workers_default_counts() -> None:
    assert stopping_seconds([], lease=4.0) == 30.0 + STOPPING_SECONDS
    assert stopping_seconds([], lease=40.0) == 40.0 + STOPPING_SECONDS


def test_a_worker_of_an_earlier_release_does_not_say_its_grace() -> None:
    text = WORKER.dumps().replace('"kill_grace": 120.0, ', "")
    assert "kill_grace" not in text
    assert Worker.loads(text, age=0.0).kill_grace == 30.0
