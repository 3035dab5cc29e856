"""A Dagster job whose ops send a user's own tasks and wait for them."""

from dagster import job, op

from dagster_taskiq.executor import taskiq_executor

# The tasks are imported where they are sent: their broker is that of the worker.


@op
def in_loops() -> list[int]:
    from compat_tests.sending_tasks import summed_in_loops

    return summed_in_loops(1, 2)


@op
async def awaiting() -> list[int]:
    from compat_tests.sending_tasks import summed

    return [await summed(3, 4), await summed(5, 6)]


@op
def calling() -> list[int]:
    from compat_tests.sending_tasks import call_others

    return call_others(1, 2)


@op
def check(in_loops: list[int], awaited: list[int], called: list[int]) -> None:
    assert (in_loops, awaited, called) == ([3, 3, 3], [7, 11], [3, 4])


@job(executor_def=taskiq_executor)
def sending_job() -> None:
    check(in_loops(), awaiting(), calling())
