"""Functions that do to their process what no test may do to pytest's."""

import asyncio
import json
import os
import traceback
from collections.abc import Callable
from typing import Any


def in_a_fork(function: Callable[[], object]) -> Any:
    """Return what a function returns in a fork of this process, as JSON sees it."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            # pytest's process has had event loops, and a new process has not.
            asyncio.set_event_loop_policy(None)
            try:
                answer = json.dumps({"value": function()})
            except BaseException:
                answer = json.dumps({"error": traceback.format_exc()})
            with os.fdopen(writing, "w") as pipe:
                pipe.write(answer)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    answer = json.loads(text)
    assert "error" not in answer, answer["error"]
    return answer["value"]
