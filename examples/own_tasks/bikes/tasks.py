"""The tasks."""

from datetime import datetime, timedelta, timezone
from typing import Annotated

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session
from taskiq import Context, TaskiqDepends
from taskiq_pipelines import Pipeline

from bikes.broker import broker, session
from bikes.stations import ask
from bikes.tables import Count

SessionOfTask = Annotated[Session, TaskiqDepends(session)]


@broker.task(retry_on_error=True)
def read_station(station: str, context: Annotated[Context, TaskiqDepends()]) -> str:
    """Ask a station for its docks. Its connection is bad, so this is tried again."""
    return ask(station, attempt=int(context.message.labels.get("_retries", 0)))


@broker.task
def bikes_in(docks: str) -> int:
    """Count the bikes in what a station has answered."""
    return docks.count("B")


@broker.task
def store(bikes: int, station: str, database: SessionOfTask) -> int:
    """Store a count, and return how many there are of the station."""
    database.add(Count(station=station, bikes=bikes))
    database.flush()
    of_station = select(func.count()).where(Count.station == station)
    return database.scalars(of_station).one()


def counting(station: str) -> Pipeline[[str], int]:
    """Return the pipeline for a station (Celery: a chain)."""
    pipeline = Pipeline(broker, read_station)
    return pipeline.call_next(bikes_in).call_next(store, param_name="bikes", station=station)


@broker.task
def bikes_now(database: SessionOfTask) -> dict[str, int]:
    """Return the last count of each station."""
    counts = database.scalars(select(Count).order_by(Count.id))
    return {each.station: each.bikes for each in counts}


@broker.task(
    schedule=[{"interval": 5, "args": ["north"]}, {"cron": "0 6 * * *", "args": ["south"]}]
)
async def count_regularly(station: str) -> str:
    """Have a station counted, and do not wait for that (Celery: beat_schedule)."""
    sent = await counting(station).kiq(station)
    return sent.task_id


@broker.task
def forget_old(days: float, database: SessionOfTask) -> int:
    """Delete old counts, and return how many there were."""
    before = datetime.now(timezone.utc) - timedelta(days=days)
    return database.execute(delete(Count).where(Count.at < before)).rowcount
