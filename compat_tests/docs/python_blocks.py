"""Python on the pages: it is executed, the blocks of a page in order.

Each page is a process of its own, forked from one that has imported Dagster already, with an empty
working directory, a ``DAGSTER_HOME`` of its own, and brokers in memory (as
:mod:`dagster_taskiq.testing` has them): a task is executed where it is sent. Blocks without a file
name share one namespace, in which ``await`` works; a block with one is written to its file, and
imported, or if it is a test handed to pytest.
"""

import ast
import asyncio
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from io import StringIO
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from types import CodeType, ModuleType
from typing import Any

from compat_tests.checkout import ROOT
from compat_tests.docs.blocks import Block, blocks_of
from compat_tests.docs.outcome import Wrong

#: How long the Python of one page may take, in seconds, on a machine that has other things to do.
PATIENCE = 120

#: Imported once, for all pages.
_PRELOADED = ["dagster", "dagster_taskiq.testing", "dagster_taskiq.client", "dagster_celery.app"]


@cache
def outcomes(page: str) -> dict[int, str]:
    """Execute the Python of a page.

    Args:
        page: its path from the root.

    Returns:
        for the line of each block, what went wrong; ``""`` where nothing did.
    """
    return execute(
        [
            block
            for block in blocks_of(ROOT / page)
            if block.language == "python" and block.note("not run") is None
        ]
    )


def execute(blocks: Sequence[Block]) -> dict[int, str]:
    """Execute blocks, one after the other, in a process of their own.

    Returns:
        as :func:`outcomes`.
    """
    if not blocks:
        return {}
    context = get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    ours, theirs = context.Pipe(duplex=False)
    with TemporaryDirectory(prefix="dagster-taskiq-docs-") as directory:
        process = context.Process(target=_execute_all, args=(list(blocks), directory, theirs))
        process.start()
        theirs.close()
        found = dict.fromkeys((block.line for block in blocks), "it was not reached")
        try:
            while ours.poll(PATIENCE):
                line, error = ours.recv()
                found[line] = error
        except EOFError:
            pass
        finally:
            process.kill()
            process.join()
            ours.close()
    return found


def check_python(block: Block) -> None:
    """See that a block of Python did what it has to.

    Raises:
        Wrong: with the traceback, from the block's own lines on.
    """
    if error := outcomes(block.page)[block.line]:
        raise Wrong(told(error))


def told(error: str) -> str:
    """Return what to do about an error."""
    return (
        f"{error.strip()}\nCorrect the block. What it needs and readers need not see stands before "
        "it in a comment, `<!-- snippet: before`, a line for each statement, `-->`."
    )


def check_imports(block: Block) -> None:
    """See that Python can be compiled, and that the names which it imports are there.

    Raises:
        Wrong: it cannot, or one is not.
    """
    try:
        tree = ast.parse(block.code)
    except SyntaxError as error:
        raise Wrong(f"This is no Python; correct it: {error}") from None
    imports = [ast.unparse(node) for node in ast.walk(tree) if _is_import_of_others(node)]
    code = "\n".join(imports)
    (error,) = execute([replace(block, code=code, name=None, notes=())]).values()
    if error:
        raise Wrong(f"{error.strip()}\nImport what is there.")


def _is_import_of_others(node: ast.AST) -> bool:
    """Return whether a statement imports what is installed, and no module of the reader's."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and not node.level:
        names = [str(node.module)]
    else:
        return False
    return all(find_spec(name.partition(".")[0]) is not None for name in names)


def _execute_all(blocks: list[Block], directory: str, results: Connection) -> None:
    """Execute blocks in this process, which has been started for them; send an outcome for each."""
    from dagster_taskiq.testing import current

    current.keep_in_memory()
    home = Path(directory, "dagster_home")
    home.mkdir()
    (home / "dagster.yaml").touch()
    os.environ.update(DAGSTER_HOME=str(home), DAGSTER_DISABLE_TELEMETRY="1")
    os.chdir(directory)
    sys.path.insert(0, directory)
    # A module, in which taskiq finds the functions that become tasks.
    page = sys.modules["page"] = ModuleType("page")
    namespace = vars(page)
    with asyncio.Runner() if sys.version_info >= (3, 11) else _Loop() as runner:
        for block in blocks:
            results.send((block.line, _outcome(block, namespace, runner)))
    results.close()
    os._exit(0)  # whatever threads the page has left


class _Loop:
    """What Python 3.11 has as ``asyncio.Runner``."""

    def __enter__(self) -> "_Loop":
        self._loop = asyncio.new_event_loop()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.close()

    def run(self, coroutine: Any) -> Any:
        return self._loop.run_until_complete(coroutine)


def _outcome(block: Block, namespace: dict[str, Any], runner: Any) -> str:
    expected = block.note("raises")
    printed = StringIO()
    try:
        with redirect_stdout(printed), redirect_stderr(printed):
            for before in (block.note("before"), block.code if block.name is None else None):
                if before is not None:
                    _run(before, block, namespace, runner)
            if block.name is not None:
                _run_file(block)
    except BaseException as error:  # SystemExit as well
        if type(error).__name__ == expected:
            return ""
        frames = traceback.extract_tb(error.__traceback__)
        own = [each for each in frames if each.filename in (str(block), block.name)]
        where = f"line {own[-1].lineno} of the block: " if own else ""
        return f"{where}{''.join(traceback.format_exception_only(error))}{printed.getvalue()}"
    return f"It raises no {expected}, as its comment says." if expected else ""


def _run(code: str, block: Block, namespace: dict[str, Any], runner: Any) -> None:
    compiled: CodeType = compile(code, str(block), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    outcome = eval(compiled, namespace)
    if inspect.iscoroutine(outcome):
        runner.run(outcome)


def _run_file(block: Block) -> None:
    path = Path(str(block.name))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(block.code)
    if path.name == "conftest.py":
        return
    if path.name.startswith("test_"):
        _run_tests(path)
        return
    importlib.invalidate_caches()
    parts = path.with_suffix("").parts
    if parts[0] == "src":  # of a project that is installed
        parts = parts[1:]
        sys.path[:0] = [] if "src" in sys.path else ["src"]
    module = ".".join(parts)
    sys.modules.pop(module, None)
    importlib.import_module(module)


def _run_tests(path: Path) -> None:
    import pytest

    arguments = ["-q", "-p", "no:cacheprovider", "-p", "dagster_taskiq.testing", str(path)]
    if outcome := pytest.main(["--rootdir=.", "-c", os.devnull, *arguments]):
        raise AssertionError(f"pytest ended with {outcome!r}.")
