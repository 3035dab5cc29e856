"""What code a worker may load for a message: any, or only what its operator has allowed.

A message names the module or file from which a worker loads a job, so everything that can write to
a broker chooses that code. If an operator has set what is allowed (``--allow``,
``$DAGSTER_TASKIQ_ALLOW``), a worker's children load nothing else for a message, and use the Dagster
instance of their own ``$DAGSTER_HOME``, also if a message names another one: an instance is code
too, since its parts are classes of any module.
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

#: What is allowed if ``--allow`` is not given, with commas between.
ALLOW_ENV = "DAGSTER_TASKIQ_ALLOW"

#: What the name of a module looks like.
_MODULE_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


@dataclass(frozen=True)
class AllowedCode:
    """The modules and places that an operator has allowed."""

    #: Modules, with what is below them.
    modules: tuple[str, ...]
    #: Files, and directories with all that is in them.
    places: tuple[Path, ...]
    #: Modules that every child imports anyway.
    included: tuple[str, ...] = ()

    @classmethod
    def of(cls, entries: Iterable[str], included: Sequence[str] = ()) -> "AllowedCode":
        """Read the entries of ``--allow``: each is a module, a file or a directory.

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
        """Entries from which :meth:`of` makes the same in any working directory."""
        return [*self.modules, *map(str, self.places)]

    def check_file(self, name: str, directory: str) -> None:
        """Check that a file of code is allowed.

        Args:
            name: the file.
            directory: from which it imports; empty for the process's own path alone.

        Raises:
            NotAllowedError: it is not; the text names it, and the option that allows it.
        """
        file = Path(name).resolve()
        if not self._is_in_a_place(file):
            raise self.refusal(f"the file {file}", str(file))
        # A file that is allowed may import from its own directory.
        if Path(directory).resolve() != file.parent:
            self._check_directory(directory)

    def check_module(self, name: str, directory: str) -> None:
        """Check that a module is allowed, by its name or by the place in which it is found.

        Args:
            name: the module.
            directory: as in :meth:`check_file`.

        Raises:
            NotAllowedError: it is not; the text names it, and the option that allows it.
        """
        named = any(name == each or name.startswith(f"{each}.") for each in self.modules)
        if not named and not self._lies_in_a_place(name.partition(".")[0], directory):
            raise self.refusal(f"the module {name}", name)
        # What the module imports is searched there first.
        self._check_directory(directory)

    def refusal(self, what: str, entry: str = "") -> NotAllowedError:
        """Return the error about something that is refused, with the entry that allows it."""
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
        ConfigError: an entry cannot be read; there is none, which must not mean all; or there is no
            instance that allowed code could use.
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


_policy: AllowedCode | None = None


def set_policy(allowed: AllowedCode) -> None:
    """Let this process load nothing else for a message from now on."""
    global _policy  # noqa: PLW0603 - it is what current_policy() reads in this process
    _policy = allowed


def current_policy() -> AllowedCode | None:
    """Return what this process may load for a message; ``None`` if any code is allowed."""
    return _policy


def _files_of(spec: ModuleSpec | None) -> list[Path]:
    """Return the place of a module: its file, or the directories of a package without one."""
    if spec is None:
        return []
    if spec.has_location and spec.origin:
        return [Path(spec.origin)]
    return [Path(each) for each in spec.submodule_search_locations or ()]
