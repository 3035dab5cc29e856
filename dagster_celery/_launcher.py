"""``CeleryRunLauncher``: the run launcher of dagster-celery, on a taskiq broker."""

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster import Field, StringSource
from dagster import _check as check
from dagster._serdes import ConfigurableClassData
from typing_extensions import Self

from dagster_celery._configuration import DEFAULT_CONFIG, configure
from dagster_celery._defaults import task_default_queue
from dagster_celery._executor import CELERY_CONFIG
from dagster_taskiq.deprecations import line_with, warn_older
from dagster_taskiq.launcher import TaskiqRunLauncher
from dagster_taskiq.tags import OLDER_NAMES, TASK_ID_TAG

# Imported for the annotation only: every process that opens a Dagster instance imports this module,
# and few of them need taskiq.
if TYPE_CHECKING:
    from dagster_celery._celery_app.app import CeleryApp


class CeleryRunLauncher(TaskiqRunLauncher):
    """A ``TaskiqRunLauncher`` that is configured with Celery's settings.

    A run that is terminated through it ends as FAILURE, as with dagster-celery; with
    ``TaskiqRunLauncher`` it ends as CANCELED.
    """

    #: A run gets the older tag as well, for programs that read that one.
    task_id_tags = (TASK_ID_TAG, OLDER_NAMES[TASK_ID_TAG])

    def __init__(
        self,
        default_queue: str,
        broker: str | None = None,
        backend: str | None = None,
        include: list[str] | None = None,
        config_source: dict[str, Any] | None = None,
        inst_data: ConfigurableClassData | None = None,
    ) -> None:
        """Make the launcher; nothing is connected until it is used.

        Args:
            default_queue: the queue of a run that has no queue tag.
            broker: Celery's broker URL.
            backend: Celery's result backend.
            include: has no effect, as with dagster-celery; it is kept for :meth:`app_args`.
            config_source: Celery's settings.
            inst_data: the part of ``dagster.yaml`` that configures the launcher, if one does.

        Raises:
            ConfigError: a setting or URL that cannot be translated; the text names what to use.
        """
        self.broker = check.opt_str_param(broker, "broker")
        self.backend = check.opt_str_param(backend, "backend")
        self.include = check.opt_list_param(include, "include", of_type=str)
        source = check.opt_dict_param(config_source, "config_source")
        self.config_source = {**DEFAULT_CONFIG, **source}
        self.default_queue = check.str_param(default_queue, "default_queue")
        file = str(_instance_file()) if inst_data else None
        configuration = configure(broker, backend, self.include, source, default_queue, file)
        # dagster-celery does nothing with a launcher's `include`: it is for workers, which have a
        # configuration of their own. A name that is out of date must fail no run.
        super().__init__(configuration.settings.replace(include=()), inst_data)

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Return the schema of the ``config`` in ``dagster.yaml``."""
        shared = ("broker", "backend", "include", "config_source")
        return {
            **{name: CELERY_CONFIG[name] for name in shared},
            "default_queue": Field(
                StringSource,
                is_required=False,
                default_value=task_default_queue,
                description="The queue of a run that has no queue tag.",
            ),
        }

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]
    ) -> Self:
        """Make the launcher from a config that Dagster has checked against its schema.

        Args:
            inst_data: the part of ``dagster.yaml`` that configures the launcher.
            config_value: its ``config``.

        Raises:
            ConfigError: a setting or URL that cannot be translated.
        """
        file = str(_instance_file())
        line = line_with(file, cls.__name__)
        warn_older("CeleryRunLauncher is now TaskiqRunLauncher, in dagster_taskiq.", file, line)
        return cls(inst_data=inst_data, **config_value)

    def app_args(self) -> dict[str, Any]:
        """Return the arguments for ``make_app``."""
        return {
            "broker": self.broker,
            "backend": self.backend,
            "include": self.include,
            "config_source": self.config_source,
            "task_default_queue": self.default_queue,
        }

    @cached_property
    def celery(self) -> "CeleryApp":
        """An app with this configuration, by which the tasks of runs can be looked at."""
        # Imported here, as it imports taskiq: every process that opens an instance makes its
        # launcher.
        from dagster_celery._make_app import make_app  # noqa: PLC0415

        return make_app(self.app_args())

    def terminate(self, run_id: str) -> bool:
        """Cancel a run that waits, or stop one that runs, with its steps; do not wait for its end.

        Args:
            run_id: the run.

        Returns:
            ``False`` when there is nothing to stop, as ``TaskiqRunLauncher.terminate``.
        """
        return self._runs.terminate(run_id, as_canceled=False)


def _instance_file() -> Path:
    return Path(os.environ.get("DAGSTER_HOME", ".")).expanduser() / "dagster.yaml"
