"""Messages as Celery and kombu leave them on a server, and a run loop that waits for results."""

import asyncio
import base64
import json
import threading
import time
import uuid
from collections.abc import Mapping
from typing import Any

import aiormq
import redis
from pamqp.commands import Basic

#: What kombu writes between a queue and a priority in the name of a list.
SEPARATOR = "\x06\x16"


def headers(task: str, task_id: str) -> dict[str, Any]:
    """Return the headers of Celery's message protocol 2."""
    return {
        "lang": "py",
        "task": task,
        "id": task_id,
        "root_id": task_id,
        "parent_id": None,
        "retries": 0,
        "timelimit": [None, None],
        "origin": "gen1@host",
    }


def body(kwargs: Mapping[str, Any]) -> bytes:
    embedded = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    return json.dumps([[], kwargs, embedded]).encode()


def document(
    task: str,
    kwargs: Mapping[str, Any],
    *,
    task_id: str,
    queue: str = "dagster",
    priority: int = 5,
    reply_to: str = "",
    content_type: str = "application/json",
) -> dict[str, Any]:
    """Return a message as kombu writes it into a Redis."""
    return {
        "body": base64.b64encode(body(kwargs)).decode(),
        "content-encoding": "utf-8",
        "content-type": content_type,
        "headers": headers(task, task_id),
        "properties": {
            "correlation_id": task_id,
            "reply_to": reply_to,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": priority,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
    }


class OnRedis:
    """Celery's queues, results and run loops on a Redis, with a prefix."""

    def __init__(self, url: str, prefix: str) -> None:
        self.client = redis.Redis.from_url(url)
        self.prefix = prefix
        self._expected = ""

    def put(self, queue: str, message: Mapping[str, Any]) -> None:
        priority = message["properties"]["priority"]
        step = max(each for each in (0, 3, 6, 9) if each <= priority)
        key = f"{self.prefix}{queue}{f'{SEPARATOR}{step}' if step else ''}"
        self.client.lpush(key, json.dumps(message))
        table = f"{self.prefix}_kombu.binding.{queue}"
        self.client.sadd(table, SEPARATOR.join((f"{queue}.#", "", queue)))

    def take(self, queue: str, message: Mapping[str, Any]) -> None:
        """Leave a message as a worker does that was killed before it has acknowledged it."""
        tag = message["properties"]["delivery_tag"]
        self.client.hset(f"{self.prefix}unacked", tag, json.dumps([message, "", queue]))
        self.client.zadd(f"{self.prefix}unacked_index", {tag: time.time()})

    def waiting(self, queue: str) -> int:
        keys = [f"{self.prefix}{queue}{SEPARATOR}{each}" for each in range(1, 10)]
        return sum(int(self.client.llen(key)) for key in (f"{self.prefix}{queue}", *keys))

    def purge(self, queue: str) -> None:
        """Delete what is in a queue."""
        keys = [f"{self.prefix}{queue}{SEPARATOR}{each}" for each in range(1, 10)]
        self.client.delete(f"{self.prefix}{queue}", *keys)

    def expect(self, task_id: str) -> str:
        """Wait for a result, as a run loop does; return the name of its reply queue.

        It has no subscription, as one that has lost it, and looks for the result's key.
        """
        self._expected = f"celery-task-meta-{task_id}"
        return "not-used"

    def result(self) -> dict[str, Any]:
        """Return the result when it is there."""
        deadline = time.monotonic() + 60
        while (found := self.client.get(self._expected)) is None:
            assert time.monotonic() < deadline, "no result was written"
            time.sleep(0.2)
        assert 0 < int(self.client.ttl(self._expected)) <= 86400
        return dict(json.loads(found))


class OnRabbit:
    """The same on a RabbitMQ, with ``rpc://``: a run loop looks into its queue every second."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._result: dict[str, Any] | None = None
        self._thread: threading.Thread | None = None

    def put(self, queue: str, message: Mapping[str, Any]) -> None:
        properties = message["properties"]

        async def publish(channel: Any) -> None:
            await channel.queue_declare(queue, durable=True, arguments={"x-max-priority": 10})
            await channel.basic_publish(
                base64.b64decode(message["body"]),
                routing_key=queue,
                properties=Basic.Properties(
                    content_type=message["content-type"],
                    content_encoding="utf-8",
                    headers=message["headers"],
                    delivery_mode=2,
                    priority=properties["priority"],
                    correlation_id=properties["correlation_id"],
                    reply_to=properties["reply_to"] or None,
                ),
            )

        self.on_channel(publish)

    def waiting(self, queue: str) -> int:
        async def count(channel: Any) -> int:
            declared = await channel.queue_declare(
                queue, durable=True, arguments={"x-max-priority": 10}
            )
            return int(declared.message_count)

        return int(self.on_channel(count))

    def expect(self, task_id: str) -> str:
        queue = f"reply-{uuid.uuid4().hex}"

        async def declare(channel: Any) -> None:
            await channel.queue_declare(queue, auto_delete=True, arguments={"x-expires": 600_000})

        self.on_channel(declare)
        self._thread = threading.Thread(target=asyncio.run, args=(self._poll(queue, task_id),))
        self._thread.start()
        return queue

    def result(self) -> dict[str, Any]:
        assert self._thread is not None
        self._thread.join(60)
        assert self._result is not None, "no result was sent"
        return self._result

    def purge(self, queue: str) -> None:
        """Delete what is in a queue."""

        async def purge(channel: Any) -> None:
            await channel.queue_purge(queue)

        self.on_channel(purge)

    def delete(self, queue: str) -> None:
        async def delete(channel: Any) -> None:
            await channel.queue_delete(queue)

        self.on_channel(delete)

    def on_channel(self, work: Any) -> Any:
        async def connected() -> Any:
            connection = await aiormq.connect(self.url)
            try:
                return await work(await connection.channel())
            finally:
                await connection.close()

        return asyncio.run(connected())

    async def _poll(self, queue: str, task_id: str) -> None:
        connection = await aiormq.connect(self.url)
        channel = await connection.channel()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self._result is None:
            await asyncio.sleep(0.5)
            found = await channel.basic_get(queue)
            if not isinstance(found.delivery, Basic.GetOk):
                continue
            tag = found.delivery.delivery_tag or 0
            answer = json.loads(found.body)
            assert found.header.properties.correlation_id == task_id == answer["task_id"]
            await channel.basic_ack(tag)
            self._result = answer
        await connection.close()
