"""What stands in for the API by which a pod of Kubernetes changes itself, with TLS and tokens."""

import json
import re
import ssl
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import trustme

NAMESPACE = "production"


@dataclass
class PodsApi:
    #: The directory of the service account, as it is mounted into pods.
    account: Path
    #: What leads to the API in each container.
    environment: dict[str, str] = field(default_factory=dict)
    #: The patches of each pod, in order.
    patches: dict[str, list[Any]] = field(default_factory=dict)
    allows_patch: bool = True
    #: How many patches were refused.
    refused: int = 0

    def renew_token(self) -> None:
        (self.account / "token").write_text(f"{uuid.uuid4()}\n")

    def costs(self, pod: str) -> list[str]:
        """Return the costs that a pod was given, in order."""
        annotation = "controller.kubernetes.io/pod-deletion-cost"
        found = self.patches.get(pod, [])
        return [str(each["metadata"]["annotations"][annotation]) for each in found]

    def patch(self, path: str, headers: Any, body: Any) -> tuple[int, dict[str, Any]]:
        pod = re.fullmatch(rf"/api/v1/namespaces/{NAMESPACE}/pods/([^/]+)", path)
        token = (self.account / "token").read_text().strip()
        if headers["Authorization"] != f"Bearer {token}":
            return 401, {"kind": "Status"}
        if pod is None or headers["Content-Type"] != "application/merge-patch+json":
            return 415, {"kind": "Status"}
        if not self.allows_patch:
            self.refused += 1
            return 403, {"kind": "Status"}
        self.patches.setdefault(pod[1], []).append(body)
        return 200, {"kind": "Pod"}


@contextmanager
def serving_pods(account: Path) -> Iterator[PodsApi]:
    """Serve the API, with a service account for it in a new directory."""
    account.mkdir()
    api = PodsApi(account)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(account / "ca.crt"))
    (account / "namespace").write_text(NAMESPACE)
    api.renew_token()

    class Handler(BaseHTTPRequestHandler):
        def do_PATCH(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, answer = api.patch(self.path, self.headers, body)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, format: str, *args: Any) -> None:
            """Log no request."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    api.environment = {
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "KUBERNETES_SERVICE_PORT": str(server.server_port),
    }
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
