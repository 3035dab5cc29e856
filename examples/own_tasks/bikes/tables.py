"""The tables of the database."""

from datetime import datetime, timezone

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """The tables."""


class Count(Base):
    """How many bikes a station had at some time."""

    __tablename__ = "counts"

    id: Mapped[int] = mapped_column(primary_key=True)
    station: Mapped[str]
    bikes: Mapped[int]
    at: Mapped[datetime] = mapped_column(default=lambda: datetime.now(timezone.utc))
