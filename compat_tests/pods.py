"""What a container of Kubernetes is for its processes: name, mounts, user, variables, and an end.

On Linux, with the rights of root, a pod has a host name, mounts and a user of its own. Elsewhere it
is a process with the pod's environment, in which the paths of its mounts are replaced.
"""

import os
import shlex
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


@dataclass
class Pod:
    """A pod with one container."""

    name: str
    command: Sequence[str]
    #: All of its variables; ``PATH``, ``HOSTNAME`` and ``HOME`` are added.
    environment: Mapping[str, str]
    #: The file that its output goes to.
    log: Path
    #: What is mounted, read-only: files and directories by their paths in the pod.
    mounts: Mapping[str, Path]
    #: Directories that it can write to (``emptyDir``), by their paths in the pod.
    empty_dirs: Mapping[str, Path] = field(default_factory=dict)
    has_read_only_root: bool = False
    #: ``None`` for root, as which images run that name none.
    user: int | None = None
    grace: float = GRACE_SECONDS
    process: "subprocess.Popen[bytes]" = field(init=False)

    def __post_init__(self) -> None:
        if not has_namespaces():
            self.name = socket.gethostname()

    def start(self) -> "Pod":
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [*self._enter(), *map(self._path, self.command)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                cwd="/",
                start_new_session=True,
            )
        return self

    def probe(self, command: Sequence[str], timeout: float) -> bool:
        """Whether a command that is executed in the pod succeeds in time, as kubelet judges it."""
        inside = ["nsenter", "-t", str(self.process.pid), "-m", "-u"] if has_namespaces() else []
        try:
            done = subprocess.run(
                [*inside, *self._become_user(), *command],
                env=self._environment(),
                cwd="/",
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

    def _path(self, text: str) -> str:
        """Return a text of the manifest with the paths of mounts as they are for the process."""
        if has_namespaces():
            return text
        for path, source in {**self.mounts, **self.empty_dirs}.items():
            text = text.replace(path, str(source))
            text = text.replace(str(Path(path).parent), str(source.parent))
        return text

    def _environment(self) -> dict[str, str]:
        scripts = str(Path(sys.executable).parent)
        path = os.pathsep.join((scripts, os.environ["PATH"]))
        own = {name: self._path(value) for name, value in self.environment.items()}
        temporary = self.empty_dirs.get("/tmp")
        here = {"TMPDIR": str(temporary)} if temporary and not has_namespaces() else {}
        return {"PATH": path, "HOSTNAME": self.name, "HOME": "/", **here, **own}

    def _become_user(self) -> list[str]:
        """Return the command that gives up root's rights, and then becomes the one that follows."""
        if self.user is None or not has_namespaces():
            return []
        nothing = ["setpriv", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]
        user = str(self.user)
        other = [*nothing, "--reuid", user, "--regid", user, "--clear-groups"]
        # The Python of a developer may be in a home that is closed to others. Root without its
        # rights is a user like any other, too.
        # The first program is still found with root's rights; what it starts is not.
        code = "import subprocess, sys; subprocess.run([sys.executable, '-c', ''], check=True)"
        can_run = subprocess.run(
            [*other, sys.executable, "-c", code], check=False, stderr=subprocess.DEVNULL
        )
        return other if can_run.returncode == 0 else nothing

    def _enter(self) -> list[str]:
        """Return the command that makes the pod, and then becomes the command that follows it."""
        if not has_namespaces():
            return []
        lines = [f"hostname {shlex.quote(self.name)}"]
        new = {_top(path) for path in (*self.mounts, *self.empty_dirs) if not Path(path).exists()}
        lines += [f"mount -t tmpfs tmpfs {each}" for each in sorted(new)]
        for path, source in self.mounts.items():
            lines += _bind(source, path)
            lines += [f"mount -o remount,bind,ro {shlex.quote(path)}"]
        # The last one may hide where the others come from.
        for path, source in self.empty_dirs.items():
            source.mkdir(exist_ok=True)
            source.chmod(0o777)  # its group is the pod's
            lines += _bind(source, path)
        if self.has_read_only_root:
            lines += [f"mount -o remount,ro {each}" for each in sorted(new)]
            lines += ["mount -o remount,bind,ro /"]
        lines += [f'exec {shlex.join(self._become_user())} "$@"']
        return ["unshare", "--mount", "--uts", "sh", "-ec", "\n".join(lines), "pod"]


def has_namespaces() -> bool:
    """Whether this user may make some: root, on Linux."""
    return sys.platform == "linux" and os.getuid() == 0 and shutil.which("unshare") is not None


def _top(path: str) -> str:
    """Return the directory in the root that a path is in."""
    return "/".join(str(Path(path).resolve()).split("/")[:2])


def _bind(source: Path, path: str) -> list[str]:
    target = shlex.quote(path)
    made = (
        f"mkdir -p {target}" if source.is_dir() else f"mkdir -p $(dirname {target}); touch {target}"
    )
    # What is there already may be on a file system that takes no files.
    made = "true" if Path(path).exists() else made
    return [made, f"mount --bind {shlex.quote(str(source))} {target}"]
