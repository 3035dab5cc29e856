"""What code a worker may load on behalf of a message: all that it finds, or what its operator says.

Who can write to a broker names the module or file that a worker loads a job from. Where an operator
has said what is allowed (``--allow``, ``$DAGSTER_TASKIQ_ALLOW``), a worker's children load nothing
else for a message, and use the Dagster instance of their own ``$DAGSTER_HOME``, whichever a message
names: an instance is code too, since its parts are classes of any module.
"""

import logging
import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from dagster_taskiq.errors import ConfigError, NotAllowedError
from dagster_taskiq.settings.env import read_home

logger = logging.getLogger("dagster_taskiq.worker")

#: What is allowed where no ``--allow`` says it, with commas between.
ALLOW_ENV = "DAGSTER_TASKIQ_ALLOW"

#: What the name of a module looks like.
_MODULE_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


@dataclass(frozen=True)
class AllowedCode:
    """The modules and places that an operator has allowed, and how he wrote them."""

    #: Modules, with what is below them.
    modules: tuple[str, ...]
    #: Files, and directories with all that is in them.
    places: tuple[Path, ...]
    #: Modules that every child imports anyway.
    included: tuple[str, ...] = ()

    @classmethod
    def of(cls, entries: Iterable[str], included: Sequence[str] = ()) -> "AllowedCode":
        """Read what an operator wrote: each entry is a module, a file or a directory.

        Args:
            entries: a path is known by a slash, a leading ``~`` or ``.``, or ``.py`` at its end.
            included: modules that messages may have imported because the operator does so anyway.

        Raises:
            ConfigError: one is neither a path nor the name of a module.
        """
        modules, places = [], []
        for entry in entries:
            if os.sep in entry or entry.startswith((".", "~")) or entry.endswith(".py"):
                places.append(Path(entry).expanduser().resolve())
            elif _MODULE_NAME.fullmatch(entry):
                modules.append(entry)
            else:
                raise ConfigError(
                    f"--allow takes a module (my_project), a file (./jobs.py) or a directory "
                    f"(/srv/project), and {entry!r} is none of them."
                )
        return cls(tuple(modules), tuple(places), tuple(included))

    @property
    def entries(self) -> list[str]:
        """What :meth:`of` makes the same of, wherever it is called."""
        return [*self.modules, *map(str, self.places)]

    def check_file(self, name: str, directory: str) -> None:
        """Let through a file of code that is allowed.

        Args:
            name: the file.
            directory: from where it imports; empty for nowhere but the process's own path.

        Raises:
            NotAllowedError: it is not; the text names it, and what to start the worker with.
        """
        file = Path(name).resolve()
        if not self._is_in_a_place(file):
            raise self.refusal(f"the file {file}", str(file))
        # A file that is allowed may import what lies beside it.
        if Path(directory).resolve() != file.parent:
            self._check_directory(directory)

    def check_module(self, name: str, directory: str) -> None:
        """Let through a module that is allowed by its name, or by the place where it is found.

        Args:
            name: the module.
            directory: as in :meth:`check_file`.

        Raises:
            NotAllowedError: it is not; the text names it, and what to start the worker with.
        """
        named = any(name == each or name.startswith(f"{each}.") for each in self.modules)
        if not named and not self._lies_in_a_place(name.partition(".")[0], directory):
            raise self.refusal(f"the module {name}", name)
        # What the module imports is looked for there first.
        self._check_directory(directory)

    def refusal(self, what: str, entry: str = "") -> NotAllowedError:
        """Return the error that says what was refused, and with which entry it would not be."""
        hint = f" If that is meant, start it with --allow {entry} too." if entry else ""
        return NotAllowedError(
            f"The worker may not load {what}. Its operator has allowed: "
            f"{', '.join(self.entries)} (--allow, or {ALLOW_ENV}).{hint}"
        )

    def _check_directory(self, directory: str) -> None:
        if not directory:
            return
        path = Path(directory).resolve()
        if path != Path.cwd().resolve() and not self._is_in_a_place(path):
            raise self.refusal(f"code from the working directory {path}", str(path))

    def _lies_in_a_place(self, top: str, directory: str) -> bool:
        """Return whether a package would be imported from an allowed place; nothing is imported."""
        if top in sys.modules:
            spec = getattr(sys.modules[top], "__spec__", None)
        else:
            spec = PathFinder.find_spec(top, [directory, *sys.path] if directory else None)
        files = _files_of(spec)
        return bool(files) and all(map(self._is_in_a_place, files))

    def _is_in_a_place(self, path: Path) -> bool:
        path = path.resolve()
        return any(each == path or each in path.parents for each in self.places)


def allowed_entries(given: Sequence[str]) -> tuple[str, ...]:
    """Return what an operator allows: by the option, else by the environment; empty for all.

    Args:
        given: the values of the option, comma lists too; paths may be relative to the working
            directory.

    Raises:
        ConfigError: an entry cannot be read; nothing is named, which is not to mean all; or there
            is no instance that allowed code could use.
    """
    values = given or [os.environ[each] for each in (ALLOW_ENV,) if each in os.environ]
    if not values:
        return ()
    parts = [part.strip() for value in values for part in value.split(",")]
    entries = AllowedCode.of(part for part in parts if part).entries
    if not entries:
        raise ConfigError(
            f"--allow (or {ALLOW_ENV}) names nothing. Name modules, files or directories, or leave "
            "it out, and the worker loads whatever a message names."
        )
    if read_home() is None:
        raise ConfigError(
            "A worker with --allow uses the Dagster instance of its own $DAGSTER_HOME, which is "
            "not set. Set it to an absolute path, with the dagster.yaml that runs are made with."
        )
    logger.info("For a message, only this code is loaded: %s.", ", ".join(entries))
    return tuple(entries)


_bound: AllowedCode | None = None


def set_policy(allowed: AllowedCode) -> None:
    """Let this process load nothing else for a message from now on."""
    global _bound  # noqa: PLW0603 - it is what current_policy() reads in this process
    _bound = allowed


def current_policy() -> AllowedCode | None:
    """Return what this process may load for a message; ``None`` where that is not bounded."""
    return _bound


def _files_of(spec: ModuleSpec | None) -> list[Path]:
    """Return where a module is: its file, or the directories of a package without one."""
    if spec is None:
        return []
    if spec.has_location and spec.origin:
        return [Path(spec.origin)]
    return [Path(each) for each in spec.submodule_search_locations or ()]
