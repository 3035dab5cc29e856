"""What a child reports to its parent, and what it does if there is none any more."""

import os
import socket
from collections.abc import Callable

import pytest

from dagster_taskiq.worker.child.parent import Parent


@pytest.mark.parametrize(
    "report",
    [
        Parent.report_wake,
        Parent.report_orchestrating,
        lambda parent: parent.report_done("null", 0, is_last=False, left=[]),
    ],
    ids=["wake", "orchestrating", "done"],
)
def test_a_child_whose_worker_has_died_executes_nothing_more(
    report: Callable[[Parent], None],
) -> None:
    reading, writing = os.pipe()
    ours, theirs = socket.socketpair()
    ours.close()  # as the kernel does when the worker dies
    pid = os.fork()
    if not pid:
        try:
            report(Parent(theirs))
        finally:  # an error, or none: both go on with the task
            os.write(writing, b"goes on")
            os._exit(0)
    theirs.close()
    os.close(writing)
    os.waitpid(pid, 0)
    assert os.read(reading, 100) == b""
    os.close(reading)
