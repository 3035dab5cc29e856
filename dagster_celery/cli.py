"""The command line ``dagster-celery``. Run ``dagster-taskiq``."""

from dagster_celery._cli.config_file import (
    get_app,
    get_config_value_from_yaml,
    get_validated_config,
)
from dagster_celery._cli.config_module import get_config_dir
from dagster_celery._cli.main import create_worker_cli_group, main, worker_cli
from dagster_celery._cli.running_workers import (
    status_command,
    worker_list_command,
    worker_terminate_command,
)
from dagster_celery._cli.worker_name import get_worker_name
from dagster_celery._cli.worker_start import launch_background_worker, worker_start_command
from dagster_celery._door import door

__all__ = [
    "create_worker_cli_group",
    "get_app",
    "get_config_dir",
    "get_config_value_from_yaml",
    "get_validated_config",
    "get_worker_name",
    "launch_background_worker",
    "main",
    "status_command",
    "worker_cli",
    "worker_list_command",
    "worker_start_command",
    "worker_terminate_command",
]

door(__name__)
