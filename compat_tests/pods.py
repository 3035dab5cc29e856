"""What a container of Kubernetes is for its processes: names, mounts, environment, and an end.

On Linux, a pod has a host name and mounts of its own. Elsewhere it is a process with the pod's
environment.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

#: What Kubernetes waits after SIGTERM, in seconds, if a pod does not say otherwise.
GRACE_SECONDS = 30.0

#: Makes the mounts of a pod, and becomes its command: $1 is its host name, $2 the number of
#: directories that follow and can be written to, in one that cannot.
_ENTER = """
hostname "$1"
writable=$2
shift 2
mount --bind "$READ_ONLY" "$READ_ONLY"
mount -o remount,bind,ro "$READ_ONLY"
unset READ_ONLY
while [ "$writable" -gt 0 ]; do
    mount --bind "$1" "$1"
    mount -o remount,bind,rw "$1"
    writable=$((writable - 1))
    shift
done
exec "$@"
"""


@dataclass
class Pod:
    """A pod with one container."""

    name: str
    command: Sequence[str]
    #: All of its variables; ``PATH`` and ``HOSTNAME`` are added.
    environment: Mapping[str, str]
    #: The file that its output goes to.
    log: Path
    #: A directory that it cannot write to, as those of mounted files.
    read_only: Path
    #: Directories in that one, or elsewhere, that it can write to (``emptyDir``).
    writable: Sequence[Path] = ()
    grace: float = GRACE_SECONDS
    process: "subprocess.Popen[bytes]" = field(init=False)

    def __post_init__(self) -> None:
        if not _has_namespaces():
            self.name = socket.gethostname()

    def start(self) -> "Pod":
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [*self._enter(), *self.command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**self._environment(), "READ_ONLY": str(self.read_only)},
                cwd=self.read_only,
                start_new_session=True,
            )
        return self

    def probe(self, command: Sequence[str], timeout: float) -> bool:
        """Whether a command that is executed in the pod succeeds in time, as kubelet judges it."""
        inside = ["nsenter", "-t", str(self.process.pid), "-m", "-u"] if _has_namespaces() else []
        try:
            done = subprocess.run(
                [*inside, *command],
                env=self._environment(),
                cwd=self.read_only,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    def delete(self) -> int:
        """End it as kubelet does; return its exit code, which is negative if it was killed."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(self.grace)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait(30)

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)

    def _environment(self) -> dict[str, str]:
        scripts = str(Path(sys.executable).parent)
        path = os.pathsep.join((scripts, os.environ["PATH"]))
        return {"PATH": path, "HOSTNAME": self.name, "HOME": "/", **self.environment}

    def _enter(self) -> list[str]:
        if not _has_namespaces():
            return []
        writable = [str(each) for each in self.writable]
        return [
            *("unshare", "--mount", "--uts", "sh", "-ec", _ENTER, "pod"),
            *(self.name, str(len(writable)), *writable),
        ]


def _has_namespaces() -> bool:
    """Whether this user may make some: root, on Linux."""
    return sys.platform == "linux" and os.getuid() == 0 and shutil.which("unshare") is not None
