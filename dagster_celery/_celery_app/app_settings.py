"""The settings of one app: as the project gives them, and as the engine takes them.

``app`` has one of these, and adds what ``config_from_object`` names. It calls ``conf``, which keeps
the settings by Celery's names, and ``dagster_celery._configuration``, which translates them.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

from dagster_celery._celery_app import in_tests
from dagster_celery._celery_app.conf import Conf, as_it_is, as_mapping
from dagster_celery._celery_app.sending import STEP_REQUEST
from dagster_celery._configuration import Configuration, configure
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.urls import scheme_of
from dagster_taskiq.transport import current

#: Settings that are passed to ``configure`` by parameters of their own.
_PASSED = ("broker_url", "result_backend", "include")


class AppSettings:
    """The settings of one app."""

    def __init__(
        self,
        given: Mapping[str, Any],
        defaults: Mapping[str, Any],
        file: str | None,
        on_change: Callable[[], None],
    ) -> None:
        """Take the settings; nothing is translated yet.

        Args:
            given: Celery's settings by name.
            defaults: what ``conf`` has for settings that are not set.
            file: the file that the settings are from, for warnings about them; ``None`` if they are
                from the program.
            on_change: called when they have been translated anew.
        """
        self.conf = Conf(given, defaults)
        self._file = file
        self._on_change = on_change
        #: What was translated last, and into what.
        self._configured: tuple[dict[str, Any], Configuration] | None = None

    @property
    def configuration(self) -> Configuration:
        """The settings of ``conf`` as the engine takes them.

        Raises:
            ConfigError: they cannot be translated.
        """
        given = self.conf.given
        if self._configured is None or self._configured[0] != given:
            source = {name: value for name, value in given.items() if name not in _PASSED}
            self._configured = (
                as_it_is(given),
                configure(
                    broker=given.get("broker_url"),
                    backend=given.get("result_backend"),
                    include=given.get("include") or (),
                    config_source=source,
                    file=self._file,
                ),
            )
            self._on_change()
        return self._configured[1]

    def check(self) -> None:
        """Translate the settings, so that an error of theirs is raised now, and not at first use.

        Raises:
            ConfigError: they cannot be translated.
        """
        self.configuration  # noqa: B018 - see above

    def add(self, source: Any, namespace: str, *, silent: bool) -> None:
        """Add settings; see :meth:`CeleryApp.config_from_object`."""
        try:
            self.conf.update(as_mapping(source, namespace))
        except ImportError:
            if not silent:
                raise
        self.check()

    def add_from_variable(self, variable: str, *, silent: bool) -> None:
        """Add settings; see :meth:`CeleryApp.config_from_envvar`."""
        module = os.environ.get(variable)
        if module:
            self.add(module, "", silent=silent)
        elif not silent:
            raise ConfigError(
                f"The variable {variable} is not set. Let it name the module of your settings."
            )

    @property
    def is_eager(self) -> bool:
        """Whether tasks run in the process that sends them, at once.

        So they do in tests, and where the broker is in memory; but the run loop executes the steps
        that it has sent.
        """
        if current.is_kept_in_memory():
            return not in_tests.are_held()
        return self.is_in_memory or bool(self.configuration.app.get("task_always_eager"))

    @property
    def is_in_memory(self) -> bool:
        """Whether tasks run at once because what is sent would not leave this process."""
        if current.is_kept_in_memory():
            return not in_tests.are_held()
        in_memory = scheme_of(self.configuration.settings.broker) == "memory"
        return in_memory and STEP_REQUEST.get() is None
