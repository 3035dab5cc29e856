"""The plugin for a project's own tests: those of a project are run, as its developers run them."""

import os
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parent.parent / "own_project"


def run_tests(
    directory: Path, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run pytest without any of our settings, and no server to be found."""
    ours = ("DAGSTER_", "PYTEST_", "COV_")
    environment = {name: os.environ[name] for name in os.environ if not name.startswith(ours)}
    environment |= variables
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(
        command,
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


def test_the_tests_of_a_project_pass_in_any_order_without_a_server() -> None:
    first, last = "tests/test_tasks_sync.py", "tests/test_jobs.py"
    others = sorted(str(each) for each in PROJECT.glob("tests/test_*.py"))
    ended = run_tests(PROJECT, first, *reversed(others), last, *others, "-q")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "passed" in ended.stdout
    assert "skipped" not in ended.stdout


def test_a_project_whose_broker_is_made_too_early_is_told_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text("from dagster_taskiq.app import broker\n")
    plugin = 'pytest_plugins = ["dagster_taskiq.testing"]'
    (tmp_path / "conftest.py").write_text(f"import tasks\n{plugin}\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    (tmp_path / "test_nothing.py").write_text("def test_nothing(): pass\n")
    early = run_tests(tmp_path, "-q", DAGSTER_TASKIQ_BROKER="redis://localhost:6379/0")
    assert early.returncode != 0
    assert '"-p dagster_taskiq.testing"' in early.stdout + early.stderr
    early = run_tests(tmp_path, "-q", "-p", "dagster_taskiq.testing")
    assert early.returncode == 0, early.stdout + early.stderr
