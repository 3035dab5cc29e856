"""What stands in for a Kubernetes cluster: the part of its API that Dagster's libraries ask.

Each Job has one pod, which is a process of this machine that runs the container's command.
"""

import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from compat_tests.preloaded import Program, start_program

#: How long a pod that is deleted has to end, in seconds (Kubernetes' own default).
GRACE_SECONDS = 30.0

#: The two answers that Kubernetes has for a name that is taken, or that is not there.
CONFLICT, NOT_FOUND = (409, "Conflict"), (404, "Not Found")


@dataclass
class Job:
    body: dict[str, Any]
    process: "subprocess.Popen[bytes] | Program"
    log: Path

    @property
    def name(self) -> str:
        return str(self.body["metadata"]["name"])

    @property
    def status(self) -> dict[str, Any]:
        code = self.process.poll()
        if code is None:
            return {"active": 1}
        return {"succeeded": 1} if code == 0 else {"failed": 1}

    def end(self) -> None:
        """End the process, and what it has started."""
        for number, seconds in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, None)):
            if self.process.poll() is None:
                os.killpg(self.process.pid, number)
            try:
                self.process.wait(seconds)
                return
            except subprocess.TimeoutExpired:
                continue


class Cluster:
    """The Jobs of one namespace."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        """Make an empty one.

        Args:
            directory: the working directory of all containers, where pods leave their logs too.
            environment: that of every container, in addition to what its Job has.
        """
        self._directory = directory
        self._environment = environment
        #: How long it takes to tell the status of a Job that runs, in seconds, unless the Job ends
        #: meanwhile. Those who look again only after ten seconds need not do so then.
        self.patience = 0.0
        self.jobs: dict[str, Job] = {}
        #: The names of the Jobs that were made, and of those that were deleted, in order.
        self.created: list[str] = []
        self.deleted: list[str] = []

    def create(self, body: dict[str, Any]) -> "Answer":
        name = body["metadata"]["name"]
        if name in self.jobs:
            return CONFLICT
        (container,) = body["spec"]["template"]["spec"]["containers"]
        own = {each["name"]: each["value"] for each in container["env"] if "value" in each}
        log = self._directory / f"{name}.log"
        module, *arguments = container["args"]
        process = start_program(
            module,
            arguments,
            log,
            {**self._environment, **own},
            directory=self._directory,
            new_session=True,
        )
        self.jobs[name] = Job(body, process, log)
        self.created.append(name)
        return {**body, "status": {}}

    def status(self, name: str) -> "Answer":
        job = self.jobs.get(name)
        if job is None:
            return NOT_FOUND
        with suppress(subprocess.TimeoutExpired):
            job.process.wait(self.patience)
        return {**job.body, "status": job.status}

    def find(self, name: str) -> "Answer":
        job = self.jobs.get(name)
        items = [{**job.body, "status": job.status}] if job else []
        return {"kind": "JobList", "apiVersion": "batch/v1", "items": items}

    def delete(self, name: str) -> "Answer":
        if name not in self.jobs:
            return NOT_FOUND
        # What a Job has started goes on until its pod is deleted.
        self.deleted.append(name)
        return {"kind": "Status", "apiVersion": "v1", "status": "Success"}

    def pods(self, job: str) -> "Answer":
        found = [{"metadata": {"name": f"{job}-pod"}}] if job in self.jobs else []
        return {"kind": "PodList", "apiVersion": "v1", "items": found}

    def delete_pod(self, name: str) -> "Answer":
        job = self.jobs.get(name.removesuffix("-pod"))
        if job is None:
            return NOT_FOUND
        threading.Thread(target=job.end).start()
        return {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name}}

    def log(self, name: str) -> "Answer":
        job = self.jobs.get(name.removesuffix("-pod"))
        return job.log.read_text() if job else NOT_FOUND

    def close(self) -> None:
        for job in self.jobs.values():
            if job.process.poll() is None:
                os.killpg(job.process.pid, signal.SIGKILL)
                job.process.wait()


#: An object, a text, or an HTTP status with its reason.
Answer = dict[str, Any] | str | tuple[int, str]

_JOBS = "/apis/batch/v1/namespaces/steps/jobs"
_PODS = "/api/v1/namespaces/steps/pods"


def _answer(cluster: Cluster, method: str, path: str, query: dict[str, str], body: Any) -> Answer:
    name = re.sub(rf"^(?:{_JOBS}|{_PODS})/([^/]+).*$", r"\1", path)
    if (method, path) == ("POST", _JOBS):
        return cluster.create(body)
    if (method, path) == ("GET", _JOBS):
        return cluster.find(query["fieldSelector"].removeprefix("metadata.name="))
    if (method, path) == ("GET", f"{_JOBS}/{name}/status"):
        return cluster.status(name)
    if (method, path) == ("DELETE", f"{_JOBS}/{name}"):
        return cluster.delete(name)
    if (method, path) == ("GET", _PODS):
        return cluster.pods(query["labelSelector"].removeprefix("job-name="))
    if (method, path) == ("GET", f"{_PODS}/{name}/log"):
        return cluster.log(name)
    if (method, path) == ("DELETE", f"{_PODS}/{name}"):
        return cluster.delete_pod(name)
    return 501, f"This cluster does not know {method} {path}"


def _handler(cluster: Cluster) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            url = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = json.loads(sent) if sent else None
            found = _answer(cluster, self.command, url.path, query, body)
            status, reason = found if isinstance(found, tuple) else (200, "OK")
            text = found if isinstance(found, str) else json.dumps(found)
            self.send_response(status, reason)
            kind = "text/plain" if isinstance(found, str) else "application/json"
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST = do_DELETE = answer

        def log_message(self, format: str, *args: Any) -> None:
            """Log no request."""

    return Handler


@contextmanager
def running_cluster(directory: Path, environment: dict[str, str]) -> Iterator[tuple[Cluster, Path]]:
    """Serve a cluster, and yield it with the kubeconfig that leads to it."""
    cluster = Cluster(directory, environment)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(cluster))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "here", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
        ],
        "users": [{"name": "us", "user": {}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "us"}}],
        "current-context": "here",
    }
    kubeconfig = directory / "kubeconfig.yaml"
    kubeconfig.write_text(yaml.safe_dump(config))
    try:
        yield cluster, kubeconfig
    finally:
        cluster.close()
        server.shutdown()
        thread.join()
        server.server_close()
