"""The releases of dagster-celery that this project stands for."""

#: The name on PyPI.
ORIGINAL = "dagster-celery"
#: Libraries on dagster-celery, which require exactly the release of it that is as old as they are.
SIBLINGS = ("dagster-celery-docker", "dagster-celery-k8s")

#: The series whose names, settings and commands ``dagster_celery`` has.
SERIES = "0.29"
#: The last release of it that the tests have run against; the first is ``0.29.0``.
NEWEST = f"{SERIES}.27"
#: All of them, the oldest first.
SUPPORTED = tuple(f"{SERIES}.{patch}" for patch in range(int(NEWEST.rpartition(".")[2]) + 1))

#: The local label of the version of a distribution that stands in for a release: ``0.29.27+taskiq``
#: satisfies ``==0.29.27``, and is preferred to the published ``0.29.27``.
LABEL = "taskiq"


def is_stand_in(version: str) -> bool:
    """Return whether a version of dagster-celery is one that stands in for the published one."""
    return version.partition("+")[2] == LABEL
