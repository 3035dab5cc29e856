"""How often a message has been delivered without being started."""

import time

from dagster_taskiq.transport.rabbitmq.records import ATTEMPTS, Record, Records

#: How long a count is kept after the last delivery, in seconds.
KEEP_SECONDS = 86400


class Attempts:
    """Counts deliveries in a record: the server reports that there was one before, not how many."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def count_again(self, task_id: str) -> int:
        """Count one more delivery of a message that came back; return how many it has had."""
        now = time.time()
        return await self._records.change(
            ATTEMPTS, lambda record: count_again(record, task_id, now)
        )

    async def uncount(self, task_id: str) -> None:
        """Take one delivery back: its message is released, and would be counted when it returns."""
        now = time.time()
        await self._records.change(ATTEMPTS, lambda record: uncount(record, task_id, now))

    async def forget(self, task_id: str) -> None:
        """Delete the count of a message that is gone."""
        await self._records.change(ATTEMPTS, lambda record: record.pop(task_id, None))


def count_again(record: Record, task_id: str, now: float) -> int:
    """Count a delivery that is not the first one; drop counts that are too old.

    Args:
        record: counts and times by task id; is changed. Its counts leave out the first delivery.
        task_id: whose message it is.
        now: seconds since the epoch.

    Returns:
        How many deliveries there have been, the first one and this one included.
    """
    for each, (_, at) in list(record.items()):
        if at < now - KEEP_SECONDS:
            del record[each]
    count, _ = record.get(task_id, (0, 0))
    record[task_id] = [count + 1, now]
    return int(count) + 2


def uncount(record: Record, task_id: str, now: float) -> None:
    """Take one delivery back, which may be the first one: then the count becomes -1."""
    count, _ = record.get(task_id, (0, 0))
    record[task_id] = [count - 1, now]
