"""Python's logging: levels, handlers and filters of the loggers."""

import logging
from contextlib import suppress
from typing import Any

#: Level, whether it passes records on, whether it is disabled, handlers, filters.
_Config = tuple[int, bool, bool, tuple[Any, ...], tuple[Any, ...]]
#: The configuration of a logger that no code has configured.
_PLAIN: _Config = (logging.NOTSET, True, False, (), ())


class Loggers:
    """Every logger that was configured, by its name; the root logger by ``root``."""

    name = "logging"
    of_thread = False

    def read(self) -> dict[str, _Config]:
        """Return how they are configured."""
        known = logging.root.manager.loggerDict.values()
        return {
            each.name: _config_of(each)
            for each in (logging.root, *known)
            # Most are not, and there may be hundreds.
            if isinstance(each, logging.Logger)
            and (each.level or each.handlers or each.disabled or each.filters or not each.propagate)
        }

    def restore(self, wanted: dict[str, _Config]) -> None:
        """Configure those that have changed; what is taken from them is flushed before."""
        found = self.read()
        if found == wanted:
            return
        for name in found.keys() | wanted.keys():
            before, now = wanted.get(name, _PLAIN), found.get(name, _PLAIN)
            if before == now:
                continue
            logger = logging.root if name == logging.root.name else logging.getLogger(name)
            for handler in set(now[3]) - set(before[3]):
                with suppress(Exception):  # it is the task's own, as at the end of a process
                    handler.flush()
            level, logger.propagate, logger.disabled, handlers, filters = before
            logger.setLevel(level)
            logger.handlers[:] = handlers
            logger.filters[:] = filters


def _config_of(logger: logging.Logger) -> _Config:
    return (
        logger.level,
        logger.propagate,
        logger.disabled,
        tuple(logger.handlers),
        tuple(logger.filters),
    )
