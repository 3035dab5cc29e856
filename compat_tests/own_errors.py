"""The errors of ``own_tasks``, for its tests as well; importing it makes no broker."""


class OutOfStockError(Exception):
    """An error as users write them: its constructor takes what the exception does not keep."""

    def __init__(self, article: str, left: int) -> None:
        super().__init__(f"{left} of {article} left")
        self.article = article
