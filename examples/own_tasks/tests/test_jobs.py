"""A test of the job: its steps and the tasks that its ops send are executed in this process."""

from pathlib import Path

import pytest
from bikes import jobs
from dagster import DagsterInstance, execute_job, reconstructable


def test_the_report_has_all_stations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "REPORT", tmp_path / "report.txt")
    job = reconstructable(jobs.bike_report)
    home = DagsterInstance.local_temp(str(tmp_path))
    with home as instance, execute_job(job, instance) as result:
        assert result.success
    assert jobs.REPORT.read_text() == "north: 3 bikes\nsouth: 5 bikes\nharbour: 0 bikes\n"
