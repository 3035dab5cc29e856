"""What a worker logs of the private parts of Dagster that its children lean on."""

import logging
from collections.abc import Mapping

logger = logging.getLogger("dagster_taskiq.worker")


def log_parts(problems: Mapping[str, str]) -> None:
    """Log which parts are in use, and what the consequences are if some are not as expected.

    Args:
        problems: what is not as expected, by the name of the part; empty if all is. A child has
            found it out (:mod:`dagster_taskiq.dagster_internals.registry`).
    """
    in_use = [name for name, problem in problems.items() if not problem]
    unexpected = unexpected_parts(problems)
    count, of_all = len(in_use), len(problems)
    logger.info("Dagster is as expected in %d of the %d parts that are used here.", count, of_all)
    logger.debug("Dagster's parts in use: %s.", ", ".join(in_use) or "none")
    for name in unexpected:
        logger.warning("%s", problems[name])


def unexpected_parts(problems: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names of the parts that are not as expected, and so not in use."""
    return tuple(name for name, problem in problems.items() if problem)
