"""All private parts of Dagster that are leaned on, and which of them are not as expected."""

from collections.abc import Mapping
from functools import cache

from dagster_taskiq.dagster_internals import (
    compute_logs,
    event_log_setup,
    event_notifications,
    event_rows,
    interrupt_handlers,
    job_definitions,
    migrations,
    op_retries,
    postgres_engines,
    run_config_cache,
    sqlite_engines,
    step_plans,
    storage_retries,
    temporary_instance,
    whole_runs,
)

PARTS = (
    compute_logs.PART,
    event_log_setup.PART,
    event_notifications.PART,
    event_rows.PART,
    interrupt_handlers.PART,
    job_definitions.PART,
    migrations.PART,
    op_retries.PART,
    postgres_engines.PART,
    run_config_cache.PART,
    sqlite_engines.PART,
    step_plans.PART,
    storage_retries.PART,
    temporary_instance.PART,
    whole_runs.PART,
)


@cache
def find_problems() -> Mapping[str, str]:
    """Return for each part, by its name, what is not as expected; empty if all is.

    For what a worker logs and ``status`` shows. What uses a part has checked it by itself; here it
    is done once in a process and its forks, before any part is replaced.
    """
    problems = {}
    for part in PARTS:
        problem = part.find_problem()
        problems[part.name] = problem and part.describe(problem)
    return problems
