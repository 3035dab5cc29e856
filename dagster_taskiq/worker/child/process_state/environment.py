"""The environment variables."""

import os

from dagster_taskiq.settings.env import copy_environment

#: The object that all code reads, in case a task replaces it.
_environ = os.environ


class Environment:
    """The variables of ``os.environ``."""

    name = "the environment"
    of_thread = False

    def read(self) -> dict[bytes, bytes]:
        """Return the variables, encoded."""
        return copy_environment(_environ)

    def restore(self, wanted: dict[bytes, bytes]) -> None:
        """Set and remove what has changed."""
        os.environ = _environ  # noqa: B003 - its variables are cleared below, one by one
        found = self.read()
        if found == wanted:
            return
        for name in found.keys() - wanted.keys():
            del os.environb[name]
        for name, value in wanted.items():
            if found.get(name) != value:
                os.environb[name] = value
