"""How a forked process ends."""

import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import atexit, sys, threading
from dagster_taskiq.worker.fork_server.process_exit import exit_process

directory = sys.argv[1]
journal = open(f"{directory}/journal", "a", buffering=1)
late = open(f"{directory}/late", "w")  # never closed


def at_exit():
    late.write("still in the buffer")
    print("exit hook", file=journal)


def fail():
    raise KeyboardInterrupt


def work():
    main.join()  # it counts as ended once threads are waited for
    print("thread", file=journal)


main = threading.current_thread()
atexit.register(at_exit)
atexit.register(fail)
threading.Thread(target=work).start()
print("written to stdout", end="")
exit_process(7)
"""


def test_threads_end_then_exit_hooks_run_then_files_are_written(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 7, done.stderr
    assert (tmp_path / "journal").read_text().splitlines() == ["thread", "exit hook"]
    assert (tmp_path / "late").read_text() == "still in the buffer"
    assert done.stdout == "written to stdout"
    assert "KeyboardInterrupt" in done.stderr
