"""What has to be known of a library's task that watches a step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dagster_taskiq.wire.task_request import TaskRequest

#: Calls the function of the library's task, with the arguments that it was sent with.
Call = Callable[[], Any]


@dataclass(frozen=True)
class Watcher:
    """A task of a library that watches a step."""

    #: Completes the request to send the task, so that what it starts can be found again.
    prepare: Callable[[TaskRequest], TaskRequest]
    #: Does the work of the task: goes on watching what an earlier task has started, or calls the
    #: library's function; and ends what is watched if the task is stopped. Takes the call, and the
    #: task's arguments by name.
    watch: Callable[[Call, Mapping[str, Any]], Any]
