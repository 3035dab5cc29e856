"""Dagster's handlers of signals, which in a child act on its parent's signals alone."""

import os
import signal
import socket
from collections.abc import Iterator

import pytest
from dagster._utils import interrupts

from dagster_taskiq.dagster_internals import interrupt_handlers
from dagster_taskiq.worker import stop_requests
from dagster_taskiq.worker.stop_requests import StopRequests

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(Exception):
    """What Dagster makes of a signal here."""


@pytest.fixture
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have Dagster's function and the handlers of this process as before, afterwards."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    monkeypatch.setattr(interrupts, "setup_interrupt_handlers", interrupts.setup_interrupt_handlers)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def parent(_restored: None) -> Iterator[socket.socket]:
    """The parent's end of the socket, of a child that this process is."""
    ours, theirs = socket.socketpair()
    assert interrupt_handlers.install(StopRequests(theirs).only_requested)
    ours.setblocking(False)
    with ours, theirs:
        yield ours


@pytest.mark.oldest
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_of_others_is_reported_and_does_not_interrupt(
    parent: socket.socket, number: signal.Signals
) -> None:
    with interrupts.capture_interrupts(), interrupts.raise_interrupts_as(Interrupted):
        os.kill(os.getpid(), number)
    assert parent.recv(8) == bytes([number])


@pytest.mark.oldest
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_of_the_parent_interrupts_once(
    parent: socket.socket, number: signal.Signals
) -> None:
    with interrupts.raise_interrupts_as(Interrupted):
        stop_requests.announce(parent)
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
    with interrupts.capture_interrupts():
        stop_requests.announce(parent)
        os.kill(os.getpid(), number)
        assert interrupts.check_captured_interrupt()


@pytest.mark.usefixtures("parent")
def test_in_a_process_that_users_code_forks_every_signal_interrupts(parent: socket.socket) -> None:
    with interrupts.raise_interrupts_as(Interrupted):
        pid = os.fork()
        if pid == 0:
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            except Interrupted:
                os._exit(3)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 3
    with pytest.raises(BlockingIOError):
        parent.recv(8)


@pytest.mark.usefixtures("_restored")
def test_where_dagsters_inside_is_otherwise_every_signal_interrupts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(interrupts, "setup_interrupt_handlers")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert not interrupt_handlers.install(lambda _number: False)
    assert "setup_interrupt_handlers" in interrupt_handlers.PART.find_problem()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
