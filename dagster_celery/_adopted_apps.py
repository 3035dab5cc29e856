"""The apps that stand for apps of Celery's own, by the places of these: ``module:name``.

The engine's ``-A`` names an attribute of a module; each attribute of this one is such a place.
"""

from importlib import import_module
from typing import Any

from dagster_celery._celery_app.adopted import served


def __getattr__(name: str) -> Any:
    module, _, attribute = name.partition(":")
    if not attribute:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return served(getattr(import_module(module), attribute))
