"""What a worker of Dagster's Helm chart needs to know, and the chart has no value for.

The chart gives its pods no ``terminationGracePeriodSeconds``, so that Kubernetes kills a worker
30 s after it has asked it to end. The worker has to end by itself before: what it watches is handed
over to another worker then, and what it has to stop is on record.
"""

from collections.abc import Mapping

from dagster_taskiq.worker.options import DRAIN_TIMEOUT_ENV, KILL_GRACE_ENV

#: The app whose workers the chart starts. Their tasks only watch Kubernetes Jobs.
_APP = "dagster_celery_k8s.app"
#: A variable that each pod of Kubernetes has.
_POD_ENV = "KUBERNETES_SERVICE_HOST"
#: The limits of such a worker in seconds, of 30 in all.
_LIMITS = {DRAIN_TIMEOUT_ENV: ("--drain-timeout", 10), KILL_GRACE_ENV: ("--kill-grace", 10)}


def limits_in_pod(app: str, environment: Mapping[str, str]) -> list[str]:
    """Return the arguments by which a worker of the chart ends within a pod's time to end.

    Args:
        app: the module of ``-A``.
        environment: that of the worker. Limits that it has variables for are left as they are.

    Returns:
        Arguments of ``dagster-taskiq worker start``; none for another app, or outside of a pod.
    """
    if app.partition(":")[0] != _APP or _POD_ENV not in environment:
        return []
    missing = [option for name, option in _LIMITS.items() if name not in environment]
    return [part for option, seconds in missing for part in (option, str(seconds))]
