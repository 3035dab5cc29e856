"""Lists in a narrow terminal: what is shortened, what is left out, and in which order."""

import re

import pytest

from dagster_taskiq.cli.tables import fitted, middle_left_out
from dagster_taskiq.cli.worker_tables import show_workers
from dagster_taskiq.version import __version__
from dagster_taskiq.wire.records import Running, Worker

RUN_ID = "3f1b6f0e-8a2b-4d52-9f0e-2b8f7d0c1a55"
HOST = "ip-10-0-12-34.eu-west-1.compute.internal"


def worker(name: str, version: str = __version__) -> Worker:
    step = Running("t", "dagster_taskiq:execute_plan", RUN_ID, "weigh_parcel[drums]", 4711, 12.0)
    queues = ("dagster", "mail", "reports", "ingest-eu", "ingest-us")
    return Worker(name, name, HOST, 77, queues, 4, version, 30.0, running=(step,))


def shown(
    width: int, workers: list[Worker], capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch
) -> list[str]:
    patch.setenv("FORCE_COLOR", "1")
    patch.setenv("COLUMNS", str(width))
    show_workers(workers)
    return re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out).splitlines()


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_workers_fit_into_a_terminal(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = [worker(f"{HOST}-77"), worker("gpu-1", "0.0.9")]
    lines = shown(width, workers, capsys, monkeypatch)
    assert max(map(len, lines)) <= width
    assert any(line.startswith("gpu-1 ") for line in lines)


def test_in_80_columns_no_name_is_broken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = " ".join(shown(80, [worker(f"{HOST}-77")], capsys, monkeypatch)).split()
    # The beginning and the end of the name; the host and the process id are in it.
    name = middle_left_out(f"{HOST}-77")
    assert {name, "weigh_parcel[drums]", RUN_ID[:8], "reports,"} <= set(words)
    assert not {"host", "version"} & set(words)


def test_a_wide_terminal_shows_all(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = " ".join(shown(200, [worker(f"{HOST}-77")], capsys, monkeypatch)).split()
    assert {f"{HOST}-77", HOST, "dagster,mail,reports,ingest-eu,ingest-us", RUN_ID} <= set(words)


def test_no_more_is_left_out_than_has_to_be() -> None:
    columns, rows = ("id", "text"), [["1234567890", "abc"]]
    narrower = [("gone", None), ("id", lambda each: each[:4]), ("text", None)]
    assert fitted(columns, rows, narrower, 17) == (columns, rows)
    assert fitted(columns, rows, narrower, 16) == (columns, [["1234", "abc"]])
    assert fitted(columns, rows, narrower, 4) == (["id"], [["1234"]])


def test_the_middle_of_a_text_is_what_is_missed_least() -> None:
    assert middle_left_out("dagster-workers-7d9f6b9c4-x2x1z", 15) == "dagster…4-x2x1z"
    assert middle_left_out("short") == "short"
