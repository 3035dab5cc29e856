"""The lines that a worker logs when a task starts and ends."""

import logging
from typing import Any

import pytest
from taskiq import TaskiqMessage

from dagster_taskiq.wire.labels import JOB_LABEL, RUN_LABEL, STEP_LABEL
from dagster_taskiq.wire.task_counts import Outcome
from dagster_taskiq.worker.task_log import (
    LONGEST_NAME,
    LONGEST_REASON,
    duration,
    log_end,
    log_start,
)

RUN = {JOB_LABEL: "ship_parcels", RUN_LABEL: "f9c9a8fd-1111-2222-3333-444455556666"}
STEP = {**RUN, STEP_LABEL: "weigh_parcel[eggs]"}


def message(labels: dict[str, Any], name: str = "shop.tasks:count") -> TaskiqMessage:
    return TaskiqMessage(task_id="a1b2c3", task_name=name, labels=labels, args=[], kwargs={})


@pytest.mark.parametrize(
    ("labels", "lines"),
    [
        (
            STEP,
            [
                "ship_parcels · weigh_parcel[eggs] started (run f9c9a8fd)",
                "ship_parcels · weigh_parcel[eggs] failed after 0.4 s (run f9c9a8fd): no scales",
            ],
        ),
        (
            RUN,
            [
                "ship_parcels · run f9c9a8fd started",
                "ship_parcels · run f9c9a8fd failed after 0.4 s: no scales",
            ],
        ),
        (
            {},
            [
                "shop.tasks:count started (task a1b2c3)",
                "shop.tasks:count failed after 0.4 s (task a1b2c3): no scales",
            ],
        ),
        # Sent by a release that did not name the job.
        (
            {**STEP, JOB_LABEL: ""},
            [
                "weigh_parcel[eggs] started (run f9c9a8fd)",
                "weigh_parcel[eggs] failed after 0.4 s (run f9c9a8fd): no scales",
            ],
        ),
    ],
    ids=["step", "run", "own task", "older step"],
)
def test_a_task_has_a_line_at_its_start_and_one_at_its_end(
    labels: dict[str, Any], lines: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        log_start(message(labels))
        log_end(message(labels), Outcome.FAILED, 0.4, "\n  no scales\nTraceback ...")
    assert caplog.messages == lines
    is_own = RUN_LABEL not in labels
    assert caplog.records[0].levelno == (logging.DEBUG if is_own else logging.INFO)


@pytest.mark.parametrize(
    ("outcome", "level"),
    [
        (Outcome.SUCCEEDED, logging.INFO),
        (Outcome.HANDED_OVER, logging.INFO),
        (Outcome.RETRIED, logging.WARNING),
        (Outcome.REVOKED, logging.WARNING),
        (Outcome.FAILED, logging.ERROR),
        (Outcome.LOST, logging.ERROR),
    ],
)
def test_an_end_is_as_severe_as_it_is(
    outcome: Outcome, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        log_end(message(STEP), outcome, 12.34, "")
    (record,) = caplog.records
    assert record.levelno == level
    assert "12.3 s (run f9c9a8fd)" in record.getMessage()
    assert (vars(record)["outcome"], vars(record)["seconds"]) == (outcome.value, 12.34)


def test_what_others_have_written_stays_in_its_line(caplog: pytest.LogCaptureFixture) -> None:
    forged = "x\n2026-01-01 ERROR forged\x1b[31m\u2028\udcff"
    labels = {JOB_LABEL: forged, RUN_LABEL: forged, STEP_LABEL: forged}
    with caplog.at_level(logging.DEBUG):
        log_start(message(labels))
        log_start(message({}, name=f"{forged}{'n' * 10_000}"))
        log_end(message(labels), Outcome.FAILED, 1.0, f"a\x1b[31m{'b' * 10_000}\n{forged}")
    for text in caplog.messages:
        assert text.isprintable(), text
        assert len(text) < LONGEST_REASON + 2 * LONGEST_NAME


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"),
        (0.00001, "0 s"),
        (0.0823, "0.082 s"),
        (0.4, "0.4 s"),
        (1.0, "1.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (725.0, "12 min 5 s"),
        (3599.6, "1 h 0 min"),
        (90_000.0, "25 h 0 min"),
    ],
)
def test_a_time_is_told_in_units_that_suit_it(seconds: float, text: str) -> None:
    assert duration(seconds) == text
