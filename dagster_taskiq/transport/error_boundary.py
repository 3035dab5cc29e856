"""Where the errors of a server's client library become errors of this package.

Every call to a server runs inside its connection's boundary. Code above ``transport`` sees a
``ServerUnavailableError`` if trying again later may help, a ``ConfigError`` if the configuration
has to change, and never an error of redis, aiormq or SQLAlchemy. An error that a boundary does not
know is a fault of this package and passes through as it is.
"""

from types import TracebackType

from dagster_taskiq.errors import DagsterTaskiqError, ServerUnavailableError
from dagster_taskiq.settings.urls import redact


class ErrorBoundary:
    """A context manager for calls to one server; each server's folder has a subclass with its map.

    Keeps no state between calls: one object serves all coroutines and threads at the same time.
    """

    #: What to do if the server does not answer, in one sentence.
    advice = "Check that the server runs and that this machine may reach it."

    def __init__(self, url: str) -> None:
        """Make the boundary of one server.

        Args:
            url: the server's URL; error texts show it without its password.
        """
        self.shown = redact(url)

    def translate(self, error: Exception) -> DagsterTaskiqError | None:
        """Return what to raise in place of an error of the client library.

        Returns:
            ``None`` if the error is not one that a server or a network can cause.
        """
        del error
        return None

    def unavailable(self, problem: str | BaseException) -> ServerUnavailableError:
        """Return the error for a server that cannot serve now.

        Args:
            problem: what went wrong, in a few words, or the error that tells it.
        """
        text = str(problem).rstrip(".") or type(problem).__name__
        return ServerUnavailableError(f"{self.shown} does not answer: {text}. {self.advice}", text)

    def __enter__(self) -> None:
        """Begin a call."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End a call; raise the translation of its error, if it has one.

        The original error is not chained: it may quote a statement, or a URL with its password.

        Raises:
            ServerUnavailableError: the server cannot serve now.
            ConfigError: it refuses what we ask for until the configuration changes.
        """
        if isinstance(error, Exception) and not isinstance(error, DagsterTaskiqError):
            translated = self.translate(error)
            if translated is not None:
                raise translated from None
