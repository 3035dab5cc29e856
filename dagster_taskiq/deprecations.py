"""The warning that something has an older name, and the older names among tags.

Projects that come from dagster-celery keep running as they are. Each older name causes one warning
for each place, at the line that has it, in one category of warnings. ``-W error`` on that category
shows everything that is left to rename.
"""

import linecache
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from dagster_taskiq.tags import OLDER_NAMES, TASK_ID_TAG

#: Every message starts with it. Python reads its own ``-W`` option before it can import installed
#: packages, so a filter there knows these warnings only by the start of their messages.
MESSAGE_START = "dagster-celery: "


class DagsterTaskiqDeprecationWarning(DeprecationWarning):
    """A name, tag, setting or command has an older name; the text names the new one."""


#: What a line has that may hold a secret: a URL with a password, or the name of one.
_MAY_BE_SECRET = re.compile(r"://[^\s/]*:\S*@|passw(?:or)?d|secret|token|access_key", re.IGNORECASE)

#: What Python has shown already, for each file, as it keeps it for each module.
_shown: dict[str, dict[Any, Any]] = {}
#: What was shown instead of being raised: text, file and line.
_shown_instead: set[tuple[str, str, int]] = set()


def warn_older(text: str, file: str, line: int = 1) -> None:
    """Warn that a place uses an older name; Python's default filters show that once.

    Nothing is raised, even if the user has turned this category into errors: the warning is shown
    instead, once for each place. Settings, tags and the environment are read by processes that have
    to start, often on another machine than the one they were written on.

    Args:
        text: the older name and what to write instead; one or two sentences.
        file: the file that has it.
        line: the line in the file, from 1.
    """
    warn_shown(text, DagsterTaskiqDeprecationWarning, file, line)


def warn_shown(text: str, category: type[Warning], file: str, line: int) -> None:
    """Warn as Python does for a line of its own, and raise nothing.

    Args:
        text: as for :func:`warn_older`.
        category: the warning's. If the user has turned it into errors, it is shown instead, once
            for each place.
        file: the file that it is about.
        line: the line in the file, from 1.
    """
    try:
        _warn(text, category, file, line)
    except category as warning:
        place = (text, file, line)
        if place not in _shown_instead:
            _shown_instead.add(place)
            warnings.showwarning(warning, type(warning), file, line)


def warn_at(text: str, file: str, line: int) -> None:
    """Warn as Python does for a line of its own.

    Args:
        text: as for :func:`warn_older`.
        file: the file that has the older name.
        line: the line in the file, from 1.

    Raises:
        DagsterTaskiqDeprecationWarning: the user has turned this category into errors.
    """
    _warn(text, DagsterTaskiqDeprecationWarning, file, line)


def _warn(text: str, category: type[Warning], file: str, line: int) -> None:
    _hide_secret(file, line)
    registry = _shown.setdefault(file, {})
    warnings.warn_explicit(MESSAGE_START + text, category, file, line, registry=registry)


def _hide_secret(file: str, line: int) -> None:
    """Have Python show only the beginning of a line that may hold a secret.

    It shows the line to which a warning belongs, which it reads by way of ``linecache``. Logs are
    read by more people than configurations are.
    """
    lines = linecache.getlines(file)
    if 0 < line <= len(lines) and _MAY_BE_SECRET.search(lines[line - 1]):
        # The list that linecache keeps.
        lines[line - 1] = re.sub(r"(?<=[:=]).*", " ***", lines[line - 1], count=1)


def warn_of_tags(tags: Mapping[str, str], file: str, line: int = 1) -> None:
    """Warn of the older names among the tags of a step.

    Args:
        tags: all tags that its author has written.
        file: the source file that has them. A line with the tag itself is looked for in it.
        line: the line at which the definition that has them begins.
    """
    for older, text in _older_among(tags):
        warn_older(text, file, line_with(file, older, line))


def warn_of_run_tags(
    tags: Mapping[str, str],
    lines_with: Callable[[str], Sequence[tuple[str, int]]],
    elsewhere: str,
) -> None:
    """Warn of the older names among the tags of a run, at every line of its project that has one.

    Args:
        tags: all of its tags.
        lines_with: returns the lines of the project's source that hold a text: file and number.
        elsewhere: the file to name if no line has the tag: it was given to this run alone.
    """
    for older, text in _older_among(tags):
        for file, line in lines_with(older) or ((elsewhere, 1),):
            warn_older(text, file, line)


def line_with(file: str, text: str, start: int = 1) -> int:
    """Return the line of a file that holds a text: the first from ``start``, else the first.

    Returns:
        Its number, from 1; ``start`` if no line holds it, or the file cannot be read.
    """
    found = [number for number, line in enumerate(linecache.getlines(file), 1) if text in line]
    return next((number for number in found if number >= start), found[0] if found else start)


def _is_shown() -> bool:
    """Whether the first filter for warnings of this category does anything but ignore them."""
    for action, message, category, module, _ in warnings.filters:
        about = message is None or re.match(message, MESSAGE_START)
        if about and module is None and issubclass(DagsterTaskiqDeprecationWarning, category):
            return action != "ignore"
    return True


def _older_among(tags: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    if not _is_shown():
        return  # reading through a project's source takes time
    for name, older in OLDER_NAMES.items():
        if older in tags and name != TASK_ID_TAG:
            yield older, f'the tag "{older}" is now "{name}". Both are read; the new one wins.'
