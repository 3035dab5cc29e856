"""Where the sockets of this host's workers are, and how a worker describes itself there."""

import hashlib
import json
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

#: The end of the name of each socket.
SUFFIX = ".sock"
#: The longest path that the address of a Unix socket holds on every system, in bytes.
_LONGEST_ADDRESS = 100


@dataclass(frozen=True)
class StartedWith:
    """The options by which a command finds the workers that were started with the same ones."""

    app: str | None = None
    #: The path of the config file.
    config: str | None = None
    # Not shown: there may be a password in a URL.
    broker: str | None = field(default=None, repr=False)
    backend: str | None = field(default=None, repr=False)

    @property
    def key(self) -> str:
        """A short text that is the same for the same options, and shows nothing of them."""
        config = str(Path(self.config).absolute()) if self.config else None
        options = json.dumps([self.app, config, self.broker, self.backend])
        return hashlib.sha256(options.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class LocalStatus:
    """What a worker says of itself."""

    name: str
    host: str
    pid: int
    #: ``starting``, ``idle``, ``busy`` or ``draining``.
    state: str

    def dumps(self) -> bytes:
        """Return it as a line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def loads(cls, line: bytes) -> "LocalStatus":
        """Return what a line says.

        Raises:
            ValueError: it is no such line, as that of another release may be.
        """
        try:
            found = json.loads(line)
            return cls(*(found[name] for name in ("name", "host", "pid", "state")))
        except (KeyError, TypeError) as error:
            raise ValueError(f"no status of a worker: {line!r}") from error


def directory() -> Path:
    """Return the directory of this user's sockets, which may not be there."""
    try:
        parent = tempfile.gettempdir()
    except FileNotFoundError:
        # All is read-only, as it may be in a container. There is memory that is shared, though.
        parent = "/dev/shm"
    return Path(parent) / f"dagster-taskiq-{os.getuid()}"


def is_private(path: Path) -> bool:
    """Whether a path is a directory of this user's that nobody else can write to or read."""
    try:
        found = path.lstat()
    except OSError:
        return False
    mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    return mine and not stat.S_IMODE(found.st_mode) & 0o077


@contextmanager
def address_of(path: Path) -> Iterator[str]:
    """Yield the address of a socket, which Linux can shorten where the path is too long.

    Raises:
        OSError: its directory cannot be opened.
    """
    if len(os.fsencode(path)) <= _LONGEST_ADDRESS or sys.platform != "linux":
        yield str(path)
        return
    opened = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{opened}/{path.name}"
    finally:
        os.close(opened)


def identity(path: Path) -> int | None:
    """Return what tells one socket from another that has its path later; ``None`` for none."""
    try:
        return path.stat().st_ino
    except OSError:
        return None


def remove_stale(path: Path, seen: int | None) -> None:
    """Remove a socket that nobody listens to, as a worker leaves it that was killed.

    Args:
        path: its path.
        seen: its identity when it refused; another worker may have taken the path since.
    """
    if seen is not None and identity(path) == seen:
        with suppress(OSError):
            path.unlink(missing_ok=True)
