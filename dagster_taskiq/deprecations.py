"""What dagster-celery called things that are read here too, and the warning about it.

Projects that come from there keep running as they are. What they still call by its older name is
said once for each place, at the line of the project's own that says it, in one category of
warnings, so that ``-W error`` on that category shows all that is left to rename.
"""

import linecache
import os
import re
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from dagster_taskiq.tags import OLDER_NAMES, TASK_ID_TAG

#: What every message starts with. Python's own ``-W`` option is read before installed packages can
#: be imported, and so knows this category only by the start of its messages.
MESSAGE_START = "dagster-celery: "

#: Packages whose calls are nobody's to rename: Dagster's own, and ours.
_NOT_THE_USERS = frozenset(
    {
        "dagster",
        "dagster_celery",
        "dagster_celery_docker",
        "dagster_celery_k8s",
        "dagster_graphql",
        "dagster_shared",
        "dagster_taskiq",
        "dagster_webserver",
    }
)

#: Where console scripts are, which import what they run.
_SCRIPTS = str(Path(sysconfig.get_path("scripts")).resolve()) + os.sep
#: Where Python, installed packages and console scripts are; a project is elsewhere.
_INSTALLED = tuple(
    {
        str(Path(path).resolve()) + os.sep
        for name, path in sysconfig.get_paths().items()
        if name in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")
    }
)


class DagsterCeleryDeprecationWarning(DeprecationWarning):
    """A name, tag, setting or command of dagster-celery is used; the text says what replaces it."""


#: What Python has shown already, for each file, as it keeps it for each module.
_shown: dict[str, dict[Any, Any]] = {}
#: What was shown where it would have been raised: text, file and line.
_shown_instead: set[tuple[str, str, int]] = set()


def warn_older(text: str, file: str, line: int = 1) -> None:
    """Warn, once by Python's own defaults, that a place calls something by its older name.

    Nothing is raised, also where the user has made errors of this category: settings, tags and the
    environment are read by processes that have to start, and far from who wrote them. They are
    shown there, once for each place. Only the name that a line of Python imports is that line's
    own (:func:`warn_importer`).

    Args:
        text: what it is, and what to write instead; one or two sentences.
        file: the file that says it.
        line: the line in it, from 1.
    """
    try:
        _warn(text, file, line)
    except DagsterCeleryDeprecationWarning as warning:
        place = (text, file, line)
        if place not in _shown_instead:
            _shown_instead.add(place)
            warnings.showwarning(warning, type(warning), file, line)


def warn_user(text: str) -> None:
    """Warn at the innermost line of the user's that is being executed.

    Where none is, as in a process of Dagster's, the place is called ``<configuration>``.

    Args:
        text: as for :func:`warn_older`.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if _is_users(frame):
            warn_older(text, frame.f_code.co_filename, frame.f_lineno)
            return
        frame = frame.f_back
    warn_older(text, "<configuration>")


def warn_importer(text: str, depth: int) -> None:
    """Warn at the line that imports or reads a name, unless it is Dagster's or ours.

    Args:
        text: as for :func:`warn_older`.
        depth: how many frames up the line is, as for ``warnings.warn``.

    Raises:
        DagsterCeleryDeprecationWarning: where the user has made errors of this category, and the
            line is not one of an installed package, where the user could not mend it.
    """
    frame = sys._getframe(depth)
    file = frame.f_code.co_filename
    if file.startswith(_SCRIPTS):
        return
    # The import system asks first whether the name is there, and the line itself reads it then.
    if _package_of(frame) not in _NOT_THE_USERS | {"importlib"}:
        warn = warn_older if _is_installed(file) else _warn
        warn(text, file, frame.f_lineno)


def warn_of_tags(tags: Mapping[str, str], file: str, line: int = 1) -> None:
    """Warn of the older names among the tags of a step that its author has written.

    Args:
        tags: all of its tags.
        file: the source that has them; a line with the tag itself is looked for there.
        line: where the definition that has them begins.
    """
    for older, text in _older_among(tags):
        warn_older(text, file, line_with(file, older, line))


def warn_of_run_tags(
    tags: Mapping[str, str],
    lines_with: Callable[[str], Sequence[tuple[str, int]]],
    elsewhere: str,
) -> None:
    """Warn of the older names among the tags of a run, wherever its project writes them.

    Args:
        tags: all of its tags.
        lines_with: returns the lines of the project's source that hold a text: file and number.
        elsewhere: the file to name where no line does: the tag was given to this run alone.
    """
    for older, text in _older_among(tags):
        for file, line in lines_with(older) or ((elsewhere, 1),):
            warn_older(text, file, line)


def _is_shown() -> bool:
    """Whether a warning of this category is more than ignored, by the first filter about it."""
    for action, message, category, module, _ in warnings.filters:
        about = message is None or re.match(message, MESSAGE_START)
        if about and module is None and issubclass(DagsterCeleryDeprecationWarning, category):
            return action != "ignore"
    return True


def _older_among(tags: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    if not _is_shown():
        return  # a project's source is not read through for what nobody will see
    for name, older in OLDER_NAMES.items():
        if older in tags and name != TASK_ID_TAG:
            yield older, f'the tag "{older}" is now "{name}". Both are read; the new one wins.'


def line_with(file: str, text: str, start: int = 1) -> int:
    """Return the line of a file that holds a text: the first from ``start``, else the first.

    Returns:
        Its number, from 1; ``start`` where no line holds it, or the file cannot be read.
    """
    found = [number for number, line in enumerate(linecache.getlines(file), 1) if text in line]
    return next((number for number in found if number >= start), found[0] if found else start)


def _warn(text: str, file: str, line: int) -> None:
    """Warn as Python does for its own: what is made an error is raised."""
    warnings.warn_explicit(
        MESSAGE_START + text,
        DagsterCeleryDeprecationWarning,
        file,
        line,
        registry=_shown.setdefault(file, {}),
    )


def _is_users(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    if file.startswith("<") or _package_of(frame) in _NOT_THE_USERS:
        return False
    return not _is_installed(file)


def _is_installed(file: str) -> bool:
    return str(Path(file).absolute()).startswith(_INSTALLED)


def _package_of(frame: FrameType) -> str:
    name, spec = frame.f_globals.get("__name__", ""), frame.f_globals.get("__spec__")
    if name == "__main__" and spec is not None:  # `python -m` has been given its name
        name = spec.name
    return str(name).partition(".")[0]
