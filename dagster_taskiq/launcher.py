"""``TaskiqRunLauncher``: Dagster's run launcher, from the config in ``dagster.yaml`` on."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dagster import DagsterInstance, DagsterRun
from dagster._core.launcher import (
    CheckRunHealthResult,
    LaunchRunContext,
    ResumeRunContext,
    RunLauncher,
)
from dagster._serdes import ConfigurableClass, ConfigurableClassData
from typing_extensions import Self

from dagster_taskiq.errors import ConfigError
from dagster_taskiq.runs.checked_runs import CheckedRuns
from dagster_taskiq.settings.schema import LAUNCHER_FIELDS
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.settings.urls import scheme_of
from dagster_taskiq.settings.worker_fleet import worker_settings
from dagster_taskiq.tags import TASK_ID_TAG

if TYPE_CHECKING:
    from dagster_taskiq.runs.launched_runs import LaunchedRuns


class TaskiqRunLauncher(RunLauncher[DagsterInstance], ConfigurableClass):
    """Launches each run as a task on a taskiq broker, for a worker to execute.

    In ``dagster.yaml``; every field has a default:

    .. code-block:: yaml

        run_launcher:
          module: dagster_taskiq
          class: TaskiqRunLauncher
          config:
            broker: {env: REDIS_URL}
    """

    #: The tags of a run in which the id of its task is written.
    task_id_tags: tuple[str, ...] = (TASK_ID_TAG,)

    def __init__(
        self,
        settings: Settings | None = None,
        inst_data: ConfigurableClassData | None = None,
        *,
        default_queue: str | None = None,
        queue_url: str | None = None,
        region_name: str | None = None,
        endpoint_url: str | None = None,
    ) -> None:
        """Make the launcher; nothing is connected until it is used.

        Args:
            settings: broker, backend, and what the launcher and its workers must have in common.
            inst_data: Dagster's own record of how the launcher was configured.
            default_queue: the queue of a run without a queue tag, if there are no ``settings``.
            queue_url: the URL of a queue of SQS, if there are no ``settings``.
            region_name: the region of SQS, if there are no ``settings``.
            endpoint_url: the address of SQS, if there are no ``settings``.

        Raises:
            ConfigError: the broker is one that has no workers; or there are ``settings``, and what
                is for a launcher without them.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        named = {
            "default_queue": default_queue,
            "queue_url": queue_url,
            "region_name": region_name,
            "endpoint_url": endpoint_url,
        }
        if settings is not None and (given := [name for name in named if named[name] is not None]):
            raise ConfigError(
                f'"{given[0]}" is for a TaskiqRunLauncher without settings. Write it into the '
                "settings, or leave these out."
            )
        self.settings = settings or Settings.from_dict(named, worker_settings())
        if scheme_of(self.settings.broker) == "memory":
            raise ConfigError(
                "A broker in memory has no workers to launch runs onto. Name one that processes "
                "share, such as redis://localhost:6379/0, or none: embedded:// needs no server."
            )
        self._inst_data = inst_data
        self._checked = CheckedRuns()

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """Dagster's own record of how the launcher was configured."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Return the schema of the ``config`` in ``dagster.yaml``."""
        return dict(LAUNCHER_FIELDS)

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]
    ) -> Self:
        """Make the launcher from a config that Dagster has checked against its schema.

        Raises:
            ConfigError: a value is out of range, or names a variable that is not set.
        """
        return cls(Settings.from_dict(config_value, worker_settings()), inst_data=inst_data)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Send a run to the queue its tags name.

        Raises:
            ServerUnavailableError: broker or backend does not answer; nothing was sent.
            ConfigError: the settings or the run's priority tag cannot work.
            DagsterLaunchFailedError: the run has no origin of its code.
        """
        self._runs.sender.launch(context.dagster_run)

    @property
    def supports_resume_run(self) -> bool:
        """Whether a run whose worker died can go on in another: yes."""
        return True

    def resume_run(self, context: ResumeRunContext) -> None:
        """Send a run to its queue once more, to go on where it was.

        The task that had the run before is stopped, at once and by force, and the new one does not
        begin before that has ended.

        Raises:
            as :meth:`launch_run`.
        """
        self._runs.sender.resume(context.dagster_run, context.resume_attempt_number or 1)

    def terminate(self, run_id: str) -> bool:
        """Cancel a run that waits, or stop one that runs, with its steps; do not wait for its end.

        Returns:
            ``False`` if there is nothing to stop: no such run, one that has ended, one without the
            tag of a task, or a broker that does not answer (which is reported in the run's log).
        """
        return self._runs.terminate(run_id)

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Whether Dagster's run monitoring can ask how a run is: yes."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Return whether some process executes a run, or will; any process may ask.

        A run is given up only on evidence. While the backend does not answer, or has no record of
        the run's task yet, the run counts as running, and the message gives the reason. So does a
        run that was launched by another launcher, or by none. One that dagster-celery's own
        launcher had launched is UNKNOWN, as it would be to that.
        """
        return self._runs.health.check(run)

    def get_run_worker_debug_info(
        self, run: DagsterRun, include_container_logs: bool | None = True
    ) -> str | None:
        """Return what is known of a run's task: state, worker, host, process, since when."""
        del include_container_logs  # the log of a worker is on its machine
        return self._runs.describe(run)

    @property
    def _runs(self) -> "LaunchedRuns":
        # Imported here: every process that opens an instance makes its launcher, and those that
        # launch nothing, such as code locations, do not need taskiq.
        from dagster_taskiq.runs.launched_runs import LaunchedRuns  # noqa: PLC0415

        # Not kept: Dagster lets launchers refer to their instance weakly.
        return LaunchedRuns(
            self._instance, self.settings, self._checked, self.task_id_tags, TaskiqRunLauncher
        )
