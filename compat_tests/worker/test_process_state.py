"""What a task leaves behind in its process: the next one sees nothing of it, or there is none."""

import contextlib
import decimal
import importlib
import importlib.util
import io
import logging
import os
import random
import resource
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from logging.handlers import MemoryHandler
from pathlib import Path

import pytest

from compat_tests.worker.dirt import DIRT, variable
from compat_tests.worker.forks import in_a_fork
from dagster_taskiq.worker.child.process_state import ProcessState


@pytest.mark.parametrize("kind", DIRT)
def test_a_task_sees_nothing_of_what_the_one_before_has_left(kind: str) -> None:
    dirt = DIRT[kind]

    def look() -> list[object]:
        state = ProcessState()
        before = state.run(dirt.see)
        assert state.restore() == []

        def leave() -> object:
            dirt.leave()
            return dirt.see()

        dirty = state.run(leave)
        left = state.restore()
        return [before, dirty, left, state.run(dirt.see), state.restore()]

    before, dirty, left, after, left_then = in_a_fork(look)
    assert dirty != before, "this leaves nothing behind"
    assert (after, left, left_then) == (before, [], [])


@pytest.mark.parametrize("kind", ["stdin", "stdout", "stderr"])
def test_a_closed_stream_stays_closed_for_all_who_have_it_and_the_process_goes(kind: str) -> None:
    def leave() -> list[object]:
        sys.stdin = Path(os.devnull).open()  # noqa: SIM115 # pytest's own cannot be closed
        state = ProcessState()
        getattr(sys, kind).close()
        return [*state.restore(), *state.restore()]

    assert in_a_fork(leave) == 2 * [f"a closed sys.{kind}"]


def test_what_was_printed_is_written_before_the_next_task_prints(tmp_path: Path) -> None:
    file = tmp_path / "printed"

    def leave() -> list[str]:
        state = ProcessState()
        sys.stdout = file.open("w")
        print("printed into a file")
        return state.restore()

    assert in_a_fork(leave) == []
    assert file.read_text() == "printed into a file\n"


def test_what_is_in_a_handler_of_logging_is_written_before_it_is_taken_away(tmp_path: Path) -> None:
    file = tmp_path / "logged"

    def leave() -> list[str]:
        state = ProcessState()
        target = logging.FileHandler(file)
        logging.getLogger().addHandler(MemoryHandler(1000, logging.CRITICAL, target))
        logging.getLogger("of.a.step").error("kept back")
        return state.restore()

    assert in_a_fork(leave) == []
    assert file.read_text() == "kept back\n"


def test_what_the_system_does_not_give_back_ends_the_process() -> None:
    def leave() -> list[str]:
        state = ProcessState()
        if os.getuid() == 0:  # who may do anything until this
            os.setuid(65534)
        else:
            resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
        return state.restore()

    (left,) = in_a_fork(leave)
    assert "Operation not permitted" in left or "not allowed to raise maximum limit" in left


def test_threads_that_still_run_end_the_process_and_are_named() -> None:
    def leave() -> list[list[str]]:
        never = threading.Event()
        threading.Thread(target=never.wait, name="before", daemon=True).start()
        state = ProcessState()
        threading.Thread(target=never.wait, name="poller", daemon=True).start()
        threading.Thread(target=never.wait, name="feeder").start()
        return [state.restore(), state.restore()]

    assert in_a_fork(leave) == 2 * [["threads that still run: feeder, poller"]]


def test_threads_that_are_about_to_end_are_waited_for() -> None:
    def leave() -> list[str]:
        state = ProcessState()
        timer = threading.Timer(3600, print)
        timer.start()
        timer.cancel()
        pool = ThreadPoolExecutor(2)
        pool.submit(print)
        pool.shutdown(wait=False)
        return state.restore()

    assert in_a_fork(leave) == []


def test_threads_that_libraries_start_once_to_serve_all_calls_may_stay() -> None:
    def leave() -> list[object]:
        import fsspec.asyn
        import tqdm

        state = ProcessState()
        fsspec.asyn.get_loop()
        bar = tqdm.tqdm(total=1, file=io.StringIO())
        running = sorted(thread.name for thread in threading.enumerate())
        bar.close()
        return [len(running), state.restore()]

    number, left = in_a_fork(leave)
    assert (number, left) == (3, [])


def test_random_numbers_stay_random_if_code_has_drawn_some_as_it_was_loaded() -> None:
    def draw() -> list[float]:
        state = ProcessState()
        with state.loading("code that draws"):
            for _ in range(5000):
                random.random()
        numbers = []
        for _ in range(3):
            assert state.restore() == []
            numbers.append(state.run(random.random))
        return numbers

    numbers = [*in_a_fork(draw), *in_a_fork(draw)]
    assert len(set(numbers)) == 6


#: A module that changes everything that modules are known to change as they are imported.
MODULE = """
import decimal, logging, os, random, sys, threading, warnings
from compat_tests.worker.dirt import variable

os.environ["SET_BY_IMPORT"] = "yes"
os.environ.pop("REMOVED_BY_IMPORT", None)
sys.path.append("/appended/by/import")
warnings.filterwarnings("ignore", message="of import")
logging.getLogger("imported").setLevel(logging.ERROR)
decimal.getcontext().prec = 9
variable.set("by import")
random.seed(11)
thread = threading.Thread(target=threading.Event().wait, name="of import", daemon=True)
thread.start()
"""


def see_import() -> list[object]:
    return [
        os.environ.get("SET_BY_IMPORT"),
        os.environ.get("REMOVED_BY_IMPORT"),
        sys.path.count("/appended/by/import"),
        any("of import" in str(each[1]) for each in warnings.filters),
        logging.getLogger("imported").level,
        decimal.getcontext().prec,
        variable.get(),
        random.random() == random.Random(11).random(),
        any(thread.name == "of import" for thread in threading.enumerate()),
    ]


def see_task() -> list[object]:
    filtered = any("of task" in str(each[1]) for each in warnings.filters)
    in_path = "/by/task" in sys.path
    rounding = decimal.getcontext().rounding
    return [os.environ.get("SET_BY_TASK"), in_path, filtered, rounding, logging.getLogger().level]


def change_in_task() -> None:
    os.environ["SET_BY_TASK"] = "yes"
    sys.path.insert(0, "/by/task")
    warnings.filterwarnings("ignore", message="of task")
    logging.getLogger().setLevel(logging.CRITICAL)


BY_IMPORT = ["yes", None, 1, True, logging.ERROR, 9, "by import", True, True]


@pytest.mark.parametrize("way", ["as the job is loaded", "within the task"])
def test_what_a_module_sets_as_it_is_imported_stays_and_the_rest_does_not(
    tmp_path: Path, way: str
) -> None:
    (tmp_path / "sets_much.py").write_text(MODULE)

    def look() -> list[object]:
        os.environ["REMOVED_BY_IMPORT"] = "still there"
        sys.path.append(str(tmp_path))
        state = ProcessState()
        before = state.run(see_task)

        def task() -> None:
            change_in_task()
            decimal.getcontext().rounding = decimal.ROUND_UP
            importlib.import_module("sets_much")
            change_in_task()

        def load() -> None:
            with state.loading("job"):
                importlib.import_module("sets_much")
            change_in_task()

        seen = []
        for _ in range(2):
            state.run(load if way == "as the job is loaded" else task)
            left = state.restore()
            seen.append([left, state.run(see_import), state.run(see_task) == before])
            state.restore()
        return seen

    assert in_a_fork(look) == 2 * [[[], BY_IMPORT, True]]


def test_a_module_that_is_imported_on_another_thread_keeps_what_it_has_set(tmp_path: Path) -> None:
    (tmp_path / "sets_a_variable.py").write_text("import os; os.environ['SET_BY_IMPORT'] = 'yes'")

    def look() -> list[object]:
        sys.path.append(str(tmp_path))
        state = ProcessState()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(importlib.import_module, "sets_a_variable").result()
        return [state.restore(), os.environ.get("SET_BY_IMPORT")]

    assert in_a_fork(look) == [[], "yes"]


def test_a_modules_loader_is_the_one_that_it_has_without_us(tmp_path: Path) -> None:
    (tmp_path / "imported.py").write_text("")
    (tmp_path / "fails.py").write_text("import os; os.environ['SET_BY_IMPORT'] = 'yes'; 1 / 0")

    def look() -> list[object]:
        sys.path.append(str(tmp_path))
        state = ProcessState()
        module = importlib.import_module("imported")
        # What is found, and not imported, is as it was too.
        found = importlib.util.find_spec("fails")
        again = importlib.reload(module)
        for _ in range(2):
            with contextlib.suppress(ZeroDivisionError):
                importlib.import_module("fails")
        kinds = [type(each).__name__ for each in (module.__loader__, found.loader)]
        code = found.loader.get_code("fails") is not None
        return [kinds, again is module, code, state.restore(), os.environ.get("SET_BY_IMPORT")]

    kind = "SourceFileLoader"
    assert in_a_fork(look) == [[kind, kind], True, True, [], "yes"]
