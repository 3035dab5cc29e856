"""Telling Kubernetes which pods cost least to delete: those whose worker does nothing.

When a Deployment gets smaller, its controller deletes pods with a lower
``controller.kubernetes.io/pod-deletion-cost`` first, a pod without that annotation counting as 0
(https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/#pod-deletion-cost). So a
worker annotates its own pod when it gets busy, and again when it is idle. It does so as its pod's
service account, which needs a role for it.
"""

import asyncio
import json
import logging
import os
import ssl
from collections.abc import Callable
from pathlib import Path

import aiohttp

from dagster_taskiq.errors import ConfigError

logger = logging.getLogger(__name__)

ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"
#: The costs of a pod whose worker is idle, and of one that would have to stop something.
IDLE, BUSY = 0, 100

#: How often is looked at the worker, and how often the pod is changed at most, in seconds:
#: Kubernetes asks not to change this often.
LOOK_SECONDS = 1.0
CHANGE_SECONDS = 10.0
#: How long an answer may take, in seconds.
_ANSWER_SECONDS = 10.0

#: Where a pod finds its service account.
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_HOST_ENV, _PORT_ENV = "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"
#: The pod's name, from its own manifest; by default that of its host.
POD_NAME_ENV = "POD_NAME"


class PodDeletionCost:
    """Keeps the annotation of this worker's pod as its worker is."""

    def __init__(self, is_busy: Callable[[], bool], account: Path = SERVICE_ACCOUNT) -> None:
        """Change nothing yet.

        Args:
            is_busy: whether the worker runs anything.
            account: the directory with the token, certificate and namespace of the service account.

        Raises:
            ConfigError: this process is in no pod, or the pod has no service account.
        """
        self._is_busy = is_busy
        self._account = account
        host, port = os.environ.get(_HOST_ENV), os.environ.get(_PORT_ENV, "443")
        if not host or not (account / "token").exists():
            raise ConfigError(
                "--pod-deletion-cost is for a pod of Kubernetes with a service account: "
                f"${_HOST_ENV} and {account}/token have to be there. Leave it out elsewhere, and "
                "set automountServiceAccountToken: true in a pod."
            )
        namespace = (account / "namespace").read_text().strip()
        pod = os.environ.get(POD_NAME_ENV) or os.environ.get("HOSTNAME", "")
        address = f"[{host}]" if ":" in host else host
        self._url = f"https://{address}:{port}/api/v1/namespaces/{namespace}/pods/{pod}"
        self._tls = ssl.create_default_context(cafile=str(account / "ca.crt"))

    async def run(self) -> None:
        """Change the annotation whenever the worker gets busy or idle, until this is cancelled."""
        known: int | None = None
        is_refused = False
        timeout = aiohttp.ClientTimeout(total=_ANSWER_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                cost = BUSY if self._is_busy() else IDLE
                if cost == known:
                    await asyncio.sleep(LOOK_SECONDS)
                    continue
                problem = await self._set(session, cost)
                if not problem:
                    known, is_refused = cost, False
                elif not is_refused:
                    is_refused = True
                    logger.warning(
                        "Cannot set %s of this pod: %s. Its service account may have to get and "
                        "patch pods; a busy pod may be deleted before an idle one until then.",
                        ANNOTATION,
                        problem,
                    )
                await asyncio.sleep(CHANGE_SECONDS)

    async def _set(self, session: aiohttp.ClientSession, cost: int) -> str:
        """Set the annotation, and return what is wrong, or nothing."""
        body = json.dumps({"metadata": {"annotations": {ANNOTATION: str(cost)}}})
        try:
            # Read each time: Kubernetes renews it.
            token = (self._account / "token").read_text().strip()
            headers = {
                "Authorization": f"Bearer {token}",
                "Content-Type": "application/merge-patch+json",
            }
            async with session.patch(
                self._url, data=body, headers=headers, ssl=self._tls
            ) as answer:
                return "" if answer.ok else f"{answer.status} {answer.reason}"
        except (OSError, aiohttp.ClientError, asyncio.TimeoutError) as error:
            return str(error) or type(error).__name__
