"""The backend on RabbitMQ itself, ``rpc://``: records in registers, mail through an exchange.

Celery's backend of that name answers the process that asked, and nobody else. Here the state of
every task and worker is a record on the server (see ``connections.registers``) that any process
may read and change, also when whoever wrote it has gone.

AMQP has no clock that could be asked. Times are those of whoever writes; how long a worker has been
silent is measured by whoever looks, from the moment on at which it saw the last heartbeat.
"""

import asyncio
import json
import time
import uuid
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiormq.abc import DeliveredMessage

from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport import transitions
from dagster_taskiq.transport.backend import KEEP_SECONDS, UNFINISHED_SECONDS, StateBackend
from dagster_taskiq.transport.rabbitmq.connection import Channel, RabbitConnection, sayable
from dagster_taskiq.transport.rabbitmq.records import WORKERS, Record, records_of, task_shard
from dagster_taskiq.wire.notifications import CHANNEL_LENGTH, FROM_START, Notification
from dagster_taskiq.wire.records import Task, TaskState, Worker, end_notification

#: How long a step that has ended is remembered at the most, in seconds. Its outcome is in the event
#: log; the record is there to drop what is delivered twice, and is written with each of its shard.
STEP_SECONDS = 3600
#: How long mail waits for a reader who has not come yet, in seconds.
PARKED_SECONDS = 300
#: How long a channel that nobody reads any more is listened to, in seconds.
UNREAD_SECONDS = 60
#: How long to look for a result that somebody else is reading at this moment, in seconds: the pause
#: between two looks, and all in all.
READ_SECONDS = (0.005, 8.0)

#: The states by their numbers in the records; another release must mean the same by them.
_STATES = list(TaskState)
#: How many fields this release knows of a task's record; a newer one may write more behind them.
FIELDS = 11


class RabbitBackend(StateBackend):
    """Registers for tasks and workers, queues that expire for results and for mail."""

    def __init__(self, settings: Settings, connection: RabbitConnection | None = None) -> None:
        super().__init__(settings)
        self.connection: RabbitConnection = connection or RabbitConnection(
            settings.backend_url,
            settings.options_of_backend,
            settings.connect_timeout,
            settings.lease,
        )
        self._registers = records_of(self.connection, settings.prefix)
        self._mail = _Mailbox(self.connection, settings.prefix)
        self._beats: dict[str, _Beat] = {}

    async def startup(self) -> None:
        """Connect."""
        await self.connection.open()

    async def shutdown(self) -> None:
        """Disconnect."""
        await self.connection.close()

    async def ping(self) -> None:
        """Ask the server."""
        await self.connection.ping()

    async def submitted(self, tasks: Sequence[Task]) -> None:
        """Add what is missing, one shard after the other."""
        for shard, ids in _by_shard([task.id for task in tasks]).items():
            mine = [task for task in tasks if task.id in ids]

            def submit(record: Record, mine: Sequence[Task] = mine) -> None:
                table = self._table(record)
                for task in mine:
                    known = table.get(task.id)
                    table[task.id] = transitions.submit(known, task, time.time())

            await self._registers.change(shard, submit)

    async def start(self, task: Task, *, recorded: bool = False) -> TaskState | None:
        """Change WAITING to STARTED."""

        def start(record: Record) -> TaskState | None:
            table = self._table(record)
            known = table.get(task.id)
            started, refused = transitions.start(known, task, time.time(), recorded=recorded)
            table[task.id] = started
            return refused

        return await self._registers.change(task_shard(task.id), start)

    async def finish(self, task: Task, state: TaskState, error: str, result: bytes | None) -> bool:
        """Change STARTED to a final state.

        The result is on the server before, under a name that is looked for once the task has ended
        by this worker's doing.
        """

        def finish(record: Record) -> bool:
            table = self._table(record)
            ended = transitions.finish(table.get(task.id), task, state, error, time.time())
            if ended is not None:
                table[task.id] = ended
            return ended is not None

        if result is not None:
            await self._store_result(task, result)
        ended = await self._registers.change(task_shard(task.id), finish)
        if ended and task.loop_channel:
            await self.post(task.loop_channel, end_notification(task, state))
        if not ended and result is not None and not await self._ended_by(task):
            async with self.connection.channel() as channel:
                await channel.delete_queue(self._result_queue(task))
        return ended

    async def revoke(self, task_ids: Sequence[str], reason: str) -> dict[str, str]:
        """Decide for each by its state, one shard after the other."""
        started = {}
        for shard, ids in _by_shard(task_ids).items():

            def revoke(record: Record, ids: Sequence[str] = ids) -> list[tuple[Task | None, Task]]:
                table = self._table(record)
                changes = []
                for task_id in ids:
                    before = table.get(task_id)
                    after = transitions.revoke(before, task_id, reason, time.time())
                    table[task_id] = after
                    changes.append((before, after))
                return changes

            for before, after in await self._registers.change(shard, revoke):
                if after.state is TaskState.STARTED:
                    started[after.id] = after.worker
                elif after.loop_channel and transitions.has_ended(before, after):
                    await self.post(after.loop_channel, end_notification(after, after.state))
        return started

    async def tasks(self, task_ids: Sequence[str]) -> dict[str, Task]:
        """Read the shards."""
        found = {}
        for shard, ids in _by_shard(task_ids).items():
            table = _Table(await self._registers.read(shard))
            found.update({task_id: table[task_id] for task_id in ids if task_id in table})
        return found

    async def beat(self, worker: Worker) -> list[str]:
        """Write the worker; look at what it runs, and write that only where it has to be."""
        now = time.time()
        entry = [now, worker.dumps()]

        def beat(record: Record) -> None:
            for worker_id, (at, *_) in list(record.items()):
                if at < now - KEEP_SECONDS:
                    del record[worker_id]
            record[worker.id] = entry

        running = {each.id: each for each in worker.running}

        async def look(shard: str, ids: Sequence[str]) -> list[str]:
            table = _Table(await self._registers.read(shard))
            lost = [each for each in ids if transitions.is_lost(table.get(each))]

            def put_back(record: Record) -> None:
                table = _Table(record)
                for each in lost:
                    known = table.get(each)
                    table[each] = transitions.adopt(known, running[each], worker.id, now)

            if lost:
                await self._registers.change(shard, put_back)
            return [
                each
                for each in ids
                if each not in lost and transitions.must_stop(table[each], worker.id)
            ]

        async def look_at_all() -> list[str]:
            shards = _by_shard(list(running)).items()
            found = await asyncio.gather(*(look(shard, ids) for shard, ids in shards))
            return [task_id for each in found for task_id in each]

        _, stop = await asyncio.gather(self._registers.change(WORKERS, beat), look_at_all())
        return stop

    async def deregister(self, worker_id: str) -> None:
        """Remove the worker."""
        await self._registers.change(WORKERS, lambda record: record.pop(worker_id, None))

    async def workers(self) -> list[Worker]:
        """Read the workers, and how long it is since their hearts were seen to beat."""
        record = await self._registers.read(WORKERS)
        now = time.monotonic()
        found = []
        for worker_id, (at, text, *_newer) in record.items():
            beat = _Beat.seen(at, now, self._beats.get(worker_id))
            self._beats[worker_id] = beat
            if time.time() - at < KEEP_SECONDS:
                found.append(Worker.loads(text, beat.age_at(now)))
        for worker_id in self._beats.keys() - record.keys():
            del self._beats[worker_id]
        return sorted(found, key=lambda worker: (worker.name, worker.id))

    async def post(self, channel: str, body: dict[str, Any]) -> None:
        """Send it to all who read the channel, and leave a copy for those who come later."""
        await self.connection.again(lambda: self._mail.post(channel, body))

    async def collect(self, channel: str, after: str, timeout: float) -> list[Notification]:
        """Return what has come here since; the first time, what had been left for us before."""
        return await self._mail.collect(channel, after, timeout)

    async def close_channel(self, channel: str) -> None:
        """Delete what was left for later readers, and let no more come to this one."""
        await self.connection.again(lambda: self._mail.close(channel))

    async def load_result(self, task_id: str) -> bytes | None:
        """Read the result from its queue, where the task has ended by itself."""
        task = (await self.tasks([task_id])).get(task_id)
        if task is None or not _has_result(task):
            return None
        queue = self._result_queue(task)
        pause, limit = READ_SECONDS
        deadline = time.monotonic() + limit

        async def look() -> bytes | None:
            async with self.connection.channel() as channel:
                message = await channel.get(queue)
                if message is not None:
                    await channel.give_back(message)
                return message.body if message else None

        while await self.connection.waiting_in(queue) is not None:
            body = await self.connection.again(look)
            if body is not None or time.monotonic() > deadline:
                return body
            await asyncio.sleep(pause)  # somebody else is reading it at this moment
        return None

    async def forget(self, task_ids: Sequence[str]) -> None:
        """Remove the records, and then the queues with their results."""
        for shard, ids in _by_shard(task_ids).items():

            def forget(record: Record, ids: Sequence[str] = ids) -> list[Task]:
                table = self._table(record)
                return [table.pop(each) for each in ids if transitions.may_forget(table.get(each))]

            for task in await self._registers.change(shard, forget):
                if _has_result(task):
                    async with self.connection.channel() as channel:
                        await channel.delete_queue(self._result_queue(task))

    async def _ended_by(self, task: Task) -> bool:
        """Whether the task has ended by this worker's doing, by an earlier try of which that was
        not known."""
        known = (await self.tasks([task.id])).get(task.id)
        return known is not None and _has_result(known) and known.worker == task.worker

    async def _store_result(self, task: Task, result: bytes) -> None:
        queue = self._result_queue(task)
        keep = max(1000, int(self.settings.result_ttl * 1000))

        async def work() -> None:
            async with self.connection.channel() as channel:
                await channel.declare_queue(queue, arguments={"x-expires": keep, "x-max-length": 1})
                await channel.publish(queue, result)

        await self.connection.again(work)

    def _table(self, record: Record) -> "_Table":
        """Return a shard for one who is about to change it, without what has expired."""
        table = _Table(record)
        table.drop_expired(time.time(), self.settings.result_ttl)
        return table

    def _result_queue(self, task: Task) -> str:
        # With the worker's name: one who has lost the task meanwhile writes to another queue.
        return f"{self.settings.prefix}:result:{sayable(f'{task.id}:{task.worker}')}"


class _Table(MutableMapping[str, Task]):
    """The tasks of a shard: lists of fields, of which a task is made when it is looked at."""

    def __init__(self, record: Record) -> None:
        self._record = record

    def __getitem__(self, task_id: str) -> Task:
        name, queue, run_id, step_key, state, worker, *rest = self._record[task_id]
        submitted_at, started_at, finished_at, error, revoke_requested, *_newer = rest
        return Task(
            id=task_id,
            name=name,
            queue=queue,
            run_id=run_id,
            step_key=step_key,
            state=_STATES[state],
            worker=worker,
            submitted_at=submitted_at,
            started_at=started_at,
            finished_at=finished_at,
            error=error,
            revoke_requested=bool(revoke_requested),
        )

    def __setitem__(self, task_id: str, task: Task) -> None:
        self._record[task_id] = [
            task.name,
            task.queue,
            task.run_id,
            task.step_key,
            _STATES.index(task.state),
            task.worker,
            task.submitted_at,
            task.started_at,
            task.finished_at,
            task.error,
            int(task.revoke_requested),
            # What a newer release has written behind these stays.
            *self._record.get(task_id, ())[FIELDS:],
        ]

    def __delitem__(self, task_id: str) -> None:
        del self._record[task_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._record)

    def __len__(self) -> int:
        return len(self._record)

    def __contains__(self, task_id: object) -> bool:
        return task_id in self._record

    def drop_expired(self, now: float, result_ttl: float) -> None:
        """Forget what has ended long ago, and what nobody has heard of for a month."""
        step_ttl = min(result_ttl, STEP_SECONDS)
        for task_id, fields in list(self._record.items()):
            step_key, (submitted_at, started_at, finished_at) = fields[3], fields[6:9]
            if finished_at:
                expired = finished_at < now - (step_ttl if step_key else result_ttl)
            else:
                expired = max(submitted_at, started_at) < now - UNFINISHED_SECONDS
            if expired:
                del self._record[task_id]


@dataclass(frozen=True)
class _Beat:
    """A heartbeat as this process has seen it."""

    #: When it was, by the worker's own clock: what tells it from the next.
    at: float
    #: How old it was when it was first seen, in seconds, and when that was.
    age: float
    seen_at: float
    #: When this process last looked.
    looked_at: float

    @classmethod
    def seen(cls, at: float, now: float, before: "_Beat | None") -> "_Beat":
        """Return what is known of a heartbeat that is the last one at this moment.

        Of the first that is seen only the two clocks can tell how old it is. Of a later one it is
        known that it came after the last look: a clock that is wrong makes nobody look dead.
        """
        if before is not None and before.at == at:
            return cls(at, before.age, before.seen_at, now)
        age = max(0.0, time.time() - at)
        if before is not None:
            age = min(age, now - before.looked_at)
        return cls(at, age, now, now)

    def age_at(self, now: float) -> float:
        """Return how many seconds ago it was."""
        return self.age + now - self.seen_at


@dataclass
class _Letters:
    """The mail of one channel, as far as it has come to this process."""

    kept: "OrderedDict[str, Notification]" = field(default_factory=OrderedDict)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    read_at: float = field(default_factory=time.monotonic)

    def add(self, message: DeliveredMessage) -> None:
        cursor = str(message.header.properties.message_id)
        if cursor not in self.kept:
            self.kept[cursor] = Notification(cursor, json.loads(message.body))
            if len(self.kept) > CHANNEL_LENGTH:
                self.kept.popitem(last=False)
            self.arrived.set()

    def after(self, cursor: str) -> list[Notification]:
        mails = list(self.kept.values())
        if cursor == FROM_START or cursor not in self.kept:
            return mails
        return mails[list(self.kept).index(cursor) + 1 :]


class _Mailbox:
    """The mail of one process: an exchange that leads each channel to whoever reads it now.

    A copy is parked in a queue of the channel's own, for readers who come later.
    """

    def __init__(self, connection: RabbitConnection, prefix: str) -> None:
        self._connection = connection
        self._exchange = f"{prefix}:mail"
        self._channel: Channel | None = None
        self._queue = ""
        self._letters: dict[str, _Letters] = {}
        # When the parking of which channel was last declared, on the connection of now.
        self._parked: dict[str, float] = {}
        self._parked_on: set[str] | None = None
        self._subscribing = asyncio.Lock()

    async def post(self, name: str, body: dict[str, Any]) -> None:
        name = sayable(name)
        async with self._connection.channel() as channel:
            await self._park(channel, name)
            await channel.publish(
                name,
                json.dumps(body).encode(),
                exchange=self._exchange,
                durable=False,
                must_arrive=False,
                message_id=uuid.uuid4().hex,
            )

    async def collect(self, name: str, after: str, timeout: float) -> list[Notification]:
        name = sayable(name)
        deadline = time.monotonic() + timeout
        while True:
            letters, channel = await self._subscribed(name)
            letters.arrived.clear()
            found = letters.after(after)
            left = deadline - time.monotonic()
            if found or left <= 0:
                return found
            await channel.wait_while_open(letters.arrived, min(left, UNREAD_SECONDS / 2))

    async def close(self, name: str) -> None:
        name = sayable(name)
        async with self._connection.channel() as channel:
            await channel.delete_queue(self._parking(name))
        self._parked.pop(name, None)
        if self._letters.pop(name, None) is not None and self._channel is not None:
            await self._channel.unbind(self._queue, self._exchange, name)

    async def _subscribed(self, name: str) -> tuple[_Letters, Channel]:
        """Return the letters of a channel, which from now on come by themselves."""
        channel = await self._connection.lasting_channel(f"mail of {id(self)}")
        async with self._subscribing:
            if channel is not self._channel:
                # A new connection: what came between is parked, as far as the server still has it.
                self._letters.clear()
                # A new name each time: the old one is taken for as long as the server has not
                # noticed that the connection before is gone.
                self._queue = f"{self._exchange}-of:{uuid.uuid4().hex}"
                await channel.declare_queue(self._queue, exclusive=True)
                await channel.consume(self._queue, self._on_letter)
                self._channel = channel
            letters = self._letters.get(name)
            if letters is None:
                letters = self._letters[name] = _Letters()
                # Somebody may have closed the channel since mail was last posted from here.
                self._parked.pop(name, None)
                try:
                    await self._park(channel, name)
                    await channel.bind(self._queue, self._exchange, name)
                    await self._read_parked(name, letters)
                except BaseException:
                    self._letters.pop(name, None)
                    raise
            letters.read_at = time.monotonic()
            await self._forget_unread(channel)
        return letters, channel

    async def _read_parked(self, name: str, letters: _Letters) -> None:
        queue = self._parking(name)
        arrived, letters.kept = letters.kept, OrderedDict()
        async with self._connection.channel() as channel:
            last: DeliveredMessage | None = None
            while (message := await channel.get(queue)) is not None:
                letters.add(message)
                last = message
            if last is not None:
                await channel.give_back(last, and_all_before=True)
        for cursor, mail in arrived.items():
            letters.kept.setdefault(cursor, mail)

    async def _forget_unread(self, channel: Channel) -> None:
        oldest = time.monotonic() - UNREAD_SECONDS
        for name, letters in list(self._letters.items()):
            if letters.read_at < oldest:
                del self._letters[name]
                await channel.unbind(self._queue, self._exchange, name)

    async def _park(self, channel: Channel, name: str) -> None:
        """See to it that mail of a channel is kept for a while for whoever comes later."""
        known = await self._connection.known()
        if known is not self._parked_on:
            self._parked, self._parked_on = {}, known
        now = time.monotonic()
        if self._parked.get(name, -PARKED_SECONDS) > now - PARKED_SECONDS / 2:
            return
        self._parked = {
            each: at for each, at in self._parked.items() if at > now - PARKED_SECONDS / 2
        }
        if self._exchange not in known:
            await channel.declare_exchange(self._exchange)
            known.add(self._exchange)
        queue = self._parking(name)
        await channel.declare_queue(
            queue, arguments={"x-expires": PARKED_SECONDS * 1000, "x-max-length": CHANNEL_LENGTH}
        )
        await channel.bind(queue, self._exchange, name)
        self._parked[name] = now

    async def _on_letter(self, message: DeliveredMessage) -> None:
        letters = self._letters.get(message.routing_key or "")
        if letters is not None:
            letters.add(message)

    def _parking(self, name: str) -> str:
        return f"{self._exchange}:{name}"


def _has_result(task: Task) -> bool:
    return task.state in (TaskState.SUCCESS, TaskState.FAILURE)


def _by_shard(task_ids: Sequence[str]) -> dict[str, list[str]]:
    shards: defaultdict[str, list[str]] = defaultdict(list)
    for task_id in task_ids:
        shards[task_shard(task_id)].append(task_id)
    return shards
