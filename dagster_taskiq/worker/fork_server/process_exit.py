"""The end of a forked process: what Python does at the end of a program, but without freeing it.

After its last line of code the interpreter waits for threads, runs exit hooks and flushes files,
then clears every module and frees every object. In a process that was forked with all of Dagster
in its memory, that last step takes more CPU than all the rest of a short task: each object that is
freed is written to, so the kernel copies the page that was shared with other processes. The kernel
frees the memory of a process that exits in any case, so this module does the rest and exits. The
processes of ``multiprocessing`` end the same way (``multiprocessing.popen_fork.Popen._launch``).
"""

import atexit
import gc
import io
import os
import sys
import threading
from contextlib import suppress
from typing import NoReturn

#: File objects that hold data which has not been written yet.
_BUFFERED = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)


def exit_process(code: int) -> NoReturn:
    """End this process after its threads and its exit hooks.

    Threads that are no daemons are waited for, then the functions registered with ``atexit`` are
    called, among them the finalizers of ``multiprocessing``. What is left in the buffers of open
    files is written. Objects are not finalized: their ``__del__`` is not called.

    Args:
        code: the exit code.
    """
    try:
        # Both private names are what the interpreter itself calls (Py_FinalizeEx).
        wait_for_threads = threading._shutdown  # type: ignore[attr-defined]
        for step in (wait_for_threads, atexit._run_exitfuncs, _flush_files):
            try:
                step()
            except BaseException:  # a signal, or a thread's own exit function: go on as Python does
                sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def _flush_files() -> None:
    files = [each for each in gc.get_objects() if type(each) in _BUFFERED]
    for file in (*files, sys.stdout, sys.stderr):  # a standard stream may be of any type
        with suppress(Exception):  # closed, detached, or its other end has gone
            file.flush()
