"""What the tests have in common."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from bikes.broker import broker


@pytest.fixture(autouse=True)
async def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Give each test a database of its own, which the broker opens when it starts."""
    monkeypatch.setenv("BIKES_DATABASE", f"sqlite:///{tmp_path / 'bikes.db'}")
    await broker.startup()
    yield
    await broker.shutdown()
