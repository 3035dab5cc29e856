"""The names of workers, which Celery calls nodes."""

import re
import socket

from dagster_taskiq.errors import ConfigError

_PLACEHOLDER = re.compile(r"%(%|\w)")


def expand_node_name(name: str) -> str:
    """Return a worker's name with Celery's abbreviations expanded.

    ``%h`` is the host, ``%n`` its first part, ``%d`` the rest, and ``%i`` and ``%I`` what they are
    in a worker's own process. A name without ``@`` is a host, as Celery takes it.

    Raises:
        ConfigError: an abbreviation that Celery does not know either.
    """
    own_host = socket.gethostname()
    node, at, host = name.partition("@") if "@" in name else ("", "@", name)
    first, _, domain = own_host.partition(".")
    known = {"h": own_host, "n": first, "d": domain, "i": "0", "I": "", "%": "%"}

    def expanded(match: re.Match[str]) -> str:
        if match[1] not in known:
            raise ConfigError(
                f'The worker\'s name "{name}" has {match[0]} in it, of which nothing is known. '
                "Use %h (host), %n (its first part) or %d (its domain), and %% for the sign."
            )
        return known[match[1]]

    return _PLACEHOLDER.sub(expanded, f"{node or 'celery'}{at}{host or own_host}")
