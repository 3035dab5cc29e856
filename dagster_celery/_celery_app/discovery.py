"""The modules of tasks that ``app.autodiscover_tasks()`` names."""

from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.util import find_spec

#: Names of packages, a function that returns them, or ``None`` for those of the framework.
Packages = Iterable[str] | Callable[[], Iterable[str]] | None


class Discovery:
    """Packages whose module of tasks is to be imported."""

    def __init__(self) -> None:
        self._packages: list[tuple[Iterable[str] | Callable[[], Iterable[str]], str | None]] = []

    def add(
        self, packages: Iterable[str] | Callable[[], Iterable[str]], related_name: str | None
    ) -> None:
        """Add packages.

        Args:
            packages: their names, or a function that returns them.
            related_name: the module of tasks in each; ``None`` for the package itself.
        """
        self._packages.append((packages, related_name))

    def import_all(self) -> None:
        """Import the modules that are there; each addition once.

        Raises:
            Exception: what importing one of them raises.
        """
        added, self._packages = self._packages, []
        for packages, related_name in added:
            for package in packages() if callable(packages) else packages:
                where = _package_of(package)
                name = f"{where}.{related_name}" if related_name else where
                if find_spec(name) is not None:
                    import_module(name)


def _package_of(name: str) -> str:
    """Return a package; for the name of a configuration class of Django's, the one it is for.

    Raises:
        ImportError: there is no such package.
    """
    try:
        import_module(name)
    except ModuleNotFoundError as error:
        module, _, attribute = name.rpartition(".")
        if not module or error.name != name:
            raise
        return str(getattr(getattr(import_module(module), attribute), "name", name))
    return name
