"""The environment variables."""

import os

#: The object that all code reads, in case a task replaces it.
_environ = os.environ


class Environment:
    """The variables of ``os.environ``."""

    name = "the environment"
    of_thread = False

    def read(self) -> dict[bytes, bytes]:
        """Return the variables, encoded."""
        # Its own dictionary, if there is one: a hundred times faster than asking for each
        # variable, which decodes them all.
        inner = vars(_environ).get("_data")
        return dict(inner if isinstance(inner, dict) else os.environb)

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
