"""Calls and answers as bytes: pickled, each after its length in four bytes.

What a child sends is written by a process that runs users' code, so only our own records are read:
nothing else can be named in a frame, and no function.
"""

import asyncio
import io
import pickle
import struct
from typing import Any

from dagster_taskiq import errors
from dagster_taskiq.transport.eviction import Eviction
from dagster_taskiq.transport.messages import Outgoing
from dagster_taskiq.wire.notifications import Notification
from dagster_taskiq.wire.queues import QueueDepth
from dagster_taskiq.wire.records import Running, Task, TaskState, Worker
from dagster_taskiq.wire.task_counts import EndedTask, Outcome, Packed, TaskCounts, Times

_LENGTH = struct.Struct("!I")

#: The classes of what calls and answers may hold.
_RECORDS = {
    (each.__module__, each.__qualname__): each
    for each in (
        *(Eviction, Notification, Outgoing, QueueDepth, Running, Task, TaskState, Worker),
        *(EndedTask, Outcome, Packed, TaskCounts, Times),
        *(errors.ConfigError, errors.NoRecordError, errors.NotPutBackYetError),
        errors.ServerUnavailableError,
    )
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        try:
            return _RECORDS[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module_name}.{global_name} is no record.") from None


def pack(frame: Any) -> bytes:
    """Return a frame as bytes."""
    body = pickle.dumps(frame, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)) + body


async def read(reader: asyncio.StreamReader) -> Any:
    """Return the next frame; ``None`` if the other side has closed, even within a frame.

    Raises:
        pickle.UnpicklingError: it holds what is no record of ours.
    """
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        body = await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return _Unpickler(io.BytesIO(body)).load()
