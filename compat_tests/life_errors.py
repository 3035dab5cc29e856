"""What the tasks of ``life_tasks`` and their tests both know; importing it makes no broker."""

#: The variable with the file in which hooks, events and tasks write.
LOG_ENV = "LIFE_LOG"


class OutOfStockError(Exception):
    """An error of the project's own."""
