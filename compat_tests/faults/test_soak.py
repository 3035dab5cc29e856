"""A short soak of each kind of broker; ``make soak`` is the long one."""

from pathlib import Path

import pytest

from compat_tests.brokers import BROKERS
from compat_tests.faults.conftest import Figure
from compat_tests.faults.soak import soak

#: How long harm is done, in seconds.
SECONDS = 15.0


@pytest.mark.timeout(600)
@pytest.mark.test_all("each harm that it does has a test of its own")
@pytest.mark.parametrize("kind", BROKERS)
def test_whatever_happens_no_step_is_lost_or_doubled_and_no_run_hangs(
    kind: str, tmp_path: Path, figure: Figure
) -> None:
    books = soak(kind, SECONDS, 1, tmp_path)
    for line in books.report().splitlines():
        what, _, value = line.strip().rpartition(": ")
        figure(what or "soak", value)
    assert not books.wrongs, books.report()
    assert books.runs["SUCCESS"] > 0 < sum(books.deeds.values())
