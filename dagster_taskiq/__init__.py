"""Run Dagster on a task queue: an executor, a run launcher, a worker and brokers, on taskiq."""

from dagster_taskiq.executor import TaskiqExecutor, taskiq_executor
from dagster_taskiq.launcher import TaskiqRunLauncher
from dagster_taskiq.version import __version__

__all__ = ["TaskiqExecutor", "TaskiqRunLauncher", "__version__", "taskiq_executor"]
