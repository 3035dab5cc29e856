"""The names of all queues of this package on an SQS, and what each is for.

Each begins with the prefix: what follows the region in the URL, else the setting ``prefix`` if it
is set, else the name of the default queue if its URL is given.

===============================  ===================================================================
``<prefix>-<queue>``             Messages of that queue that wait for a worker, with priority 0.
``<prefix>-<queue>--p5``         Those with priority 5; ``--m3`` for -3. SQS has no priorities, so
                                 each that is used has a queue of its own.
``<prefix>-<queue>--runs``       The run queue; ``<prefix>-<queue>--runs--p5`` with a priority.
``<prefix>--rejected``           Messages that were set aside: unreadable, or handed out too often.
===============================  ===================================================================

A queue whose URL is given is that one, and what it has beside it is named after it: with the URL
``https://.../tasks`` these are ``tasks--p5``, ``tasks--runs`` and ``tasks--runs--p5``. So those who
share a prefix, and have queues of their own, share no messages.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from dagster_taskiq.errors import ConfigError
from dagster_taskiq.wire.queues import is_run_queue, queue_of_run_queue, run_queue

#: Priorities between these are distinct; one beyond counts as the nearer one.
LOWEST_PRIORITY, HIGHEST_PRIORITY = -10, 10
#: The longest name of a queue, in characters.
NAME_LENGTH = 80

#: What stands between the name of a queue and what is added to it. So it may not be in the name.
_MARK = "--"
_RUNS = "runs"
_REJECTED = "rejected"
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_PRIORITY = re.compile(r"([pm])([1-9]\d*)")

_RULE = (
    "On SQS, names have letters, digits, - and _ only, no two hyphens in a row, and none at either "
    f"end; the prefix and a queue have at most {NAME_LENGTH} characters together, with what is "
    f"added for runs and priorities ({_MARK}{_RUNS}{_MARK}p10)."
)


@dataclass(frozen=True)
class Level:
    """A queue on the server: the messages of one queue, or run queue, with one priority."""

    #: The queue, or run queue.
    queue: str
    priority: int = 0


def nearest(priority: int) -> int:
    """Return the priority itself, or the nearest one that there is."""
    return min(max(priority, LOWEST_PRIORITY), HIGHEST_PRIORITY)


def name_in(url: str) -> str:
    """Return the name of a queue by its URL.

    Raises:
        ConfigError: the URL has none.
    """
    name = url.rstrip("/").rpartition("/")[2]
    if not _NAME.fullmatch(name) or len(name) > NAME_LENGTH:
        raise ConfigError(
            f"The URL {url} is not that of a queue, such as "
            "https://sqs.eu-central-1.amazonaws.com/123456789012/tasks. Correct `queue_url` or "
            "`queue_urls` of the broker's options."
        )
    return name


class Names:
    """The names under one prefix; the table above has the meaning of each."""

    def __init__(self, prefix: str, urls: Mapping[str, str] | None = None) -> None:
        """Take the prefix.

        Args:
            prefix: what names begin with.
            urls: the URLs of queues and run queues that are given.

        Raises:
            ConfigError: no name may begin with the prefix, or a URL cannot be used.
        """
        #: The names of the queues and run queues whose URLs are given.
        self.given: dict[str, str] = {}
        url_of: dict[str, str] = {}
        for queue, url in (urls or {}).items():
            name = self.given[queue] = name_in(url)
            if url_of.setdefault(name, url) != url:
                raise ConfigError(
                    f"The queues {url_of[name]} and {url} have the same name, so that their runs "
                    "and priorities would be mixed. Use one with another name in `queue_url` and "
                    "`queue_urls` of the broker's options."
                )
        is_given = prefix in self.given.values()
        longest = NAME_LENGTH - len(f"{_MARK}{_REJECTED}")
        if not (is_given or _is_name(prefix)) or len(prefix) > longest:
            raise ConfigError(
                f"The prefix {prefix!r} cannot be used. Write another one as PREFIX of "
                f"sqs://REGION/PREFIX. {_RULE}"
            )
        self.prefix = prefix

    def of(self, level: Level) -> str:
        """Return the name of a level.

        Raises:
            ConfigError: the queue has a name that is not allowed.
        """
        queue = queue_of_run_queue(level.queue)
        parts = [self.given.get(level.queue) or self.given.get(queue) or f"{self.prefix}-{queue}"]
        is_allowed = _is_name(queue) or parts[0] in self.given.values()
        if is_run_queue(level.queue) and level.queue not in self.given:
            parts.append(_RUNS)
        if level.priority:
            parts.append(f"{'p' if level.priority > 0 else 'm'}{abs(level.priority)}")
        name = _MARK.join(parts)
        if not is_allowed or len(name) > NAME_LENGTH:
            raise ConfigError(f"The queue {queue!r} cannot be used. {_RULE}")
        return name

    @property
    def rejected(self) -> str:
        """The queue of the messages that were set aside."""
        return f"{self.prefix}{_MARK}{_REJECTED}"

    @property
    def levels_channel(self) -> str:
        """The channel of the backend to which the levels in use are posted.

        Others with the same backend have other levels.
        """
        return f"sqs-levels-{self.prefix}"

    @property
    def beginnings(self) -> list[str]:
        """What all names begin with, besides those that are given."""
        own = f"{self.prefix}-"
        given = {f"{name}{_MARK}" for name in self.given.values()}
        return [own, *sorted(each for each in given if not each.startswith(own))]

    def read(self, name: str) -> Level | None:
        """Return the level of a name; ``None`` if it is that of no level."""
        levels = [_level(queue, given, name) for queue, given in self.given.items()]
        beginning = f"{self.prefix}-"
        if name.startswith(beginning):
            rest = name.removeprefix(beginning)
            queue = rest.partition(_MARK)[0]
            levels += [_level(queue, queue, rest)] if _is_name(queue) else []
        for level in levels:
            # A queue whose URL is given has no other names.
            if level is not None and self.of(level) == name:
                return level
        return None


def _level(queue: str, beginning: str, name: str) -> Level | None:
    """Return the level of a queue by a name that begins in this way; ``None`` if it is none."""
    if name != beginning and not name.startswith(f"{beginning}{_MARK}"):
        return None
    parts = name.removeprefix(beginning).split(_MARK)[1:]
    if parts and parts[0] == _RUNS:
        queue = run_queue(queue_of_run_queue(queue))
        del parts[0]
    if not parts:
        return Level(queue)
    priority = _PRIORITY.fullmatch(parts[0])
    if priority is None or len(parts) > 1:
        return None
    return Level(queue, int(priority[2]) * (1 if priority[1] == "p" else -1))


def _is_name(text: str) -> bool:
    is_plain = _NAME.fullmatch(text) is not None and _MARK not in text
    return is_plain and not text.startswith("-") and not text.endswith("-")
