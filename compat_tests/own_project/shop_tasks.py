"""The tasks of a shop: a project of its own, for ``compat_tests/worker/test_testing.py``."""

from collections.abc import Iterator
from typing import Annotated

from sqlalchemy import create_engine, text
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool
from taskiq import (
    Context,
    SimpleRetryMiddleware,
    TaskiqDepends,
    TaskiqEvents,
    TaskiqMessage,
    TaskiqMiddleware,
    TaskiqState,
)

from dagster_taskiq.app import broker
from dagster_taskiq.client import send


class CountingMiddleware(TaskiqMiddleware):
    """Counts what is sent and what is executed."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}

    def pre_send(self, message: TaskiqMessage) -> TaskiqMessage:
        self.counts["sent"] = self.counts.get("sent", 0) + 1
        return message

    def pre_execute(self, message: TaskiqMessage) -> TaskiqMessage:
        self.counts["executed"] = self.counts.get("executed", 0) + 1
        return message


counting = CountingMiddleware()
broker.add_middlewares(counting, SimpleRetryMiddleware(default_retry_count=3))


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def connect(state: TaskiqState) -> None:
    state.engine = create_engine(
        "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
    )


@broker.on_event(TaskiqEvents.WORKER_SHUTDOWN)
def disconnect(state: TaskiqState) -> None:
    state.engine.dispose()


def engine_of(context: Annotated[Context, TaskiqDepends()]) -> Engine:
    engine: Engine = context.state.engine
    return engine


def session(engine: Annotated[Engine, TaskiqDepends(engine_of)]) -> Iterator[Session]:
    """A session for one task, which is committed unless the task fails."""
    with Session(engine) as opened, opened.begin():
        yield opened


class Gateway:
    """A payment provider."""

    def charge(self, order: int) -> str:
        raise ConnectionError(f"no network to charge {order}")


@broker.task
async def add(a: int, b: int) -> int:
    return a + b


@broker.task
def store_order(order: int, db: Annotated[Session, TaskiqDepends(session)]) -> int:
    db.execute(text("CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY)"))
    db.execute(text("INSERT INTO orders VALUES (:id)"), {"id": order})
    return int(db.execute(text("SELECT count(*) FROM orders")).scalar_one())


@broker.task(retry_on_error=True)
def charge(order: int, gateway: Annotated[Gateway, TaskiqDepends()]) -> str:
    return gateway.charge(order)


@broker.task
def send_mail(to: str, subject: str) -> str:
    return f"{subject} -> {to}"


@broker.task
async def confirm(order: int, to: str) -> str:
    """Send a task from a task, and wait for it."""
    sent = await send_mail.kiq(to, f"order {order}")
    result = await sent.wait_result()
    return str(result.raise_for_error().return_value)


def take_order(order: int, to: str) -> None:
    """Do what a synchronous web handler does."""
    send(charge, order)
    send(send_mail.kicker().with_labels(delay=60, priority=5), to, subject="thanks")
