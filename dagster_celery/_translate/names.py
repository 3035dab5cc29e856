"""The public names of dagster-celery, by module, and what to write in place of each."""

from collections.abc import Mapping

_EXECUTOR = "write dagster_taskiq.taskiq_executor, whose configuration has no config_source"
_CONFIG = (
    "there is nothing to merge or wrap any more: pass settings to taskiq_executor, or make "
    "dagster_taskiq.settings.Settings"
)
_TASKS = "leave it out: every broker of dagster_taskiq.app has this task"
_DEFAULTS = "leave it out: the settings of taskiq_executor have defaults of their own"
_COMMAND = "run the command dagster-taskiq"

#: What to write instead of each name, by module.
NAMES: Mapping[str, Mapping[str, str]] = {
    "dagster_celery": {"celery_executor": _EXECUTOR},
    "dagster_celery.app": {
        "app": "write dagster_taskiq.app.broker",
        "execute_plan": _TASKS,
        "execute_job": _TASKS,
        "resume_job": _TASKS,
    },
    "dagster_celery.cli": {
        "main": _COMMAND,
        "create_worker_cli_group": _COMMAND,
        "get_app": (
            "write dagster_taskiq.app.make(settings), with settings from "
            "dagster_taskiq.settings.yaml_file.read_settings(path)"
        ),
        "get_config_dir": "leave it out: workers are configured by options, environment or -y",
        "get_config_value_from_yaml": "write dagster_taskiq.settings.yaml_file.read_settings(path)",
        "get_validated_config": "write dagster_taskiq.settings.yaml_file.read_settings(path)",
        "get_worker_name": "leave it out: give workers a name with -n",
        "launch_background_worker": "run dagster-taskiq worker start -d",
        "status_command": _COMMAND,
        "worker_cli": _COMMAND,
        "worker_list_command": _COMMAND,
        "worker_start_command": _COMMAND,
        "worker_terminate_command": _COMMAND,
    },
    "dagster_celery.config": {
        "DEFAULT_CONFIG": _CONFIG,
        "dict_wrapper": _CONFIG,
        "TASK_EXECUTE_PLAN_NAME": "write dagster_taskiq.wire.task_names.EXECUTE_PLAN",
        "TASK_EXECUTE_JOB_NAME": "write dagster_taskiq.wire.task_names.EXECUTE_JOB",
        "TASK_RESUME_JOB_NAME": "write dagster_taskiq.wire.task_names.RESUME_JOB",
    },
    "dagster_celery.core_execution_loop": {
        "core_celery_execution_loop": (
            "write an executor that returns dagster_taskiq.runs.run_loop.RunLoop(...).events()"
        ),
        "DELEGATE_MARKER": "leave it out: Dagster's own events show when a step was sent",
        "TICK_SECONDS": "write dagster_taskiq.runs.run_loop.TICK_SECONDS",
    },
    "dagster_celery.defaults": {
        "broker_url": _DEFAULTS,
        "backend": _DEFAULTS,
        "result_backend": _DEFAULTS,
        "task_default_priority": _DEFAULTS,
        "task_default_queue": _DEFAULTS,
        "worker_prefetch_multiplier": _DEFAULTS,
        "broker_transport_options": _DEFAULTS,
    },
    "dagster_celery.executor": {
        "celery_executor": _EXECUTOR,
        "CeleryExecutor": "write dagster_taskiq.TaskiqExecutor",
        "CELERY_CONFIG": "write dagster_taskiq.settings.schema.EXECUTOR_FIELDS",
    },
    "dagster_celery.launcher": {"CeleryRunLauncher": "write dagster_taskiq.TaskiqRunLauncher"},
    "dagster_celery.make_app": {
        "make_app": "write dagster_taskiq.app.make(Settings(...)), or dagster_taskiq.app.broker",
        "make_app_with_task_routes": (
            "write dagster_taskiq.app.make(Settings(...)); name a task's queue with the label "
            "queue_name"
        ),
    },
    "dagster_celery.tags": {
        "DAGSTER_CELERY_QUEUE_TAG": "write dagster_taskiq.tags.QUEUE_TAG",
        "DAGSTER_CELERY_STEP_PRIORITY_TAG": "write dagster_taskiq.tags.PRIORITY_TAG",
        "DAGSTER_CELERY_RUN_PRIORITY_TAG": "write dagster_taskiq.tags.RUN_PRIORITY_TAG",
        "DAGSTER_CELERY_TASK_ID_TAG": "write dagster_taskiq.tags.TASK_ID_TAG",
    },
    "dagster_celery.tasks": {
        "create_task": _TASKS,
        "create_execute_job_task": _TASKS,
        "create_resume_job_task": _TASKS,
    },
    "dagster_celery.version": {"__version__": "write dagster_taskiq.__version__"},
}

#: What to run instead of each command.
COMMANDS: Mapping[str, str] = {
    "worker start": "dagster-taskiq worker start",
    "worker list": "dagster-taskiq worker list",
    "worker terminate": "dagster-taskiq worker terminate",
    "status": "dagster-taskiq status",
}
