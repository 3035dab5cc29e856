"""Jobs of the tests in which messages come twice, come changed, or come among many others."""

from dagster import job

from compat_tests.executor.fault_jobs import quick
from dagster_taskiq import taskiq_executor

#: Steps whose messages a test changes, by what it does with them.
CHANGED = (
    *("more_labels", "more_fields", "more_packed", "cut_off_once", "cut_off"),
    *("more_arguments", "fewer_arguments", "other_task", "other_class"),
)


@job(executor_def=taskiq_executor)
def changed() -> None:
    for name in CHANGED:
        quick.alias(name)()


@job(executor_def=taskiq_executor)
def six() -> None:
    for number in range(6):
        quick.alias(f"quick_{number}")()
