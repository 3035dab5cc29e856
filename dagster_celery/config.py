"""The configuration of every app of dagster-celery, and the names of its tasks.

There is nothing to merge or wrap any more: pass settings to ``taskiq_executor``. The tasks are
named in ``dagster_taskiq.wire.task_names``.
"""

from dagster_celery._celery_app.conf import dict_wrapper
from dagster_celery._configuration import DEFAULT_CONFIG
from dagster_celery._door import door
from dagster_taskiq.wire.task_names import EXECUTE_JOB as TASK_EXECUTE_JOB_NAME
from dagster_taskiq.wire.task_names import EXECUTE_PLAN as TASK_EXECUTE_PLAN_NAME
from dagster_taskiq.wire.task_names import RESUME_JOB as TASK_RESUME_JOB_NAME

__all__ = [
    "DEFAULT_CONFIG",
    "TASK_EXECUTE_JOB_NAME",
    "TASK_EXECUTE_PLAN_NAME",
    "TASK_RESUME_JOB_NAME",
    "dict_wrapper",
]

door(__name__)
