"""The configuration of an app, by Celery's names."""

from collections.abc import Iterator, Mapping, MutableMapping
from difflib import get_close_matches
from importlib import import_module
from types import ModuleType
from typing import Any

from dagster_celery._translate.settings.rows import SETTINGS
from dagster_taskiq.settings.env import resolve_env

#: Settings to which projects add: `conf.imports += (...)`.
_ADDED_TO = ("imports", "include")
#: Settings that are dictionaries, where the project has not set them, too.
_DICTIONARIES = (
    "beat_schedule",
    "broker_transport_options",
    "result_backend_transport_options",
    "task_publish_retry_policy",
)


class Conf(MutableMapping[str, Any]):
    """The app's settings, as items and as attributes.

    A setting of Celery's that is neither set nor has a default is ``None`` as an attribute. One
    that is a list or dictionary may be changed in place: ``conf.task_routes["x"] = ...``.
    """

    def __init__(self, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        """Make the configuration.

        Args:
            given: what the project has set.
            defaults: the values of settings that it has not set.
        """
        # Written to the dictionary, since assigning an attribute sets a setting.
        self.__dict__["_set"] = dict(given)
        self.__dict__["_defaults"] = dict(defaults)
        #: Lists and dictionaries that were read, which the reader may change; and as they were.
        self.__dict__["_read"] = {}

    @property
    def given(self) -> dict[str, Any]:
        """What the project has set, or has changed in place."""
        read: dict[str, tuple[Any, Any]] = self.__dict__["_read"]
        changed = {name: live for name, (live, before) in read.items() if live != before}
        return {**self.__dict__["_set"], **changed}

    def __getitem__(self, name: str) -> Any:
        read: dict[str, tuple[Any, Any]] = self.__dict__["_read"]
        if name in read:
            return read[name][0]
        found: dict[str, Any] = self.__dict__["_set"]
        if name not in found:
            found = self.__dict__["_defaults"]
        value = {} if name in _DICTIONARIES and name not in found else found[name]
        resolved = resolve_env(value)
        if isinstance(value, tuple):
            return tuple(resolved)
        if isinstance(resolved, dict | list):
            read[name] = (resolved, as_it_is(resolved))
        return resolved

    def __setitem__(self, name: str, value: Any) -> None:
        self.__dict__["_read"].pop(name, None)
        self.__dict__["_set"][name] = value

    def __delitem__(self, name: str) -> None:
        self.__dict__["_read"].pop(name, None)
        del self.__dict__["_set"][name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self.__dict__["_defaults"], **self.given})

    def __len__(self) -> int:
        return len({**self.__dict__["_defaults"], **self.given})

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        if name in SETTINGS:
            return () if name in _ADDED_TO else None
        close = get_close_matches(name, [*SETTINGS, *self], 1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise AttributeError(f"{name} is no setting of Celery.{hint}")

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __repr__(self) -> str:
        return f"Conf({', '.join(sorted(self))})"  # values may hold passwords


class dict_wrapper:
    """An object whose attributes are the items of a dictionary (dagster-celery's name)."""

    def __init__(self, dictionary: dict[str, Any]) -> None:
        self.__dict__ = dictionary


def as_it_is(value: Any) -> Any:
    """Return a copy of lists and dictionaries, at any depth, to be compared with them later."""
    if isinstance(value, Mapping):
        return {name: as_it_is(each) for name, each in value.items()}
    if type(value) in (list, tuple):  # others may be made in another way
        return type(value)(as_it_is(each) for each in value)
    return value


def as_mapping(source: Any, namespace: str = "") -> dict[str, Any]:
    """Return settings as a new dictionary.

    Args:
        source: a mapping; an object or module with settings as attributes; the name of such, in the
            form ``module``, ``module.name`` or ``module:name``; or ``None`` for no settings.
        namespace: what the names of the settings begin with, such as ``CELERY``; others are left
            out then.

    Raises:
        ImportError: there is no module of that name.
    """
    if source is None:
        return {}
    if isinstance(source, str):
        source = _imported(source)
    if not isinstance(source, Mapping):
        names = dir(source) if not isinstance(source, ModuleType) else vars(source)
        found = {name: getattr(source, name, None) for name in names}
        source = {
            name: value for name, value in found.items() if namespace or _is_setting(name, value)
        }
    if not namespace:
        return dict(source)
    prefix = f"{namespace.rstrip('_')}_"
    return {
        name[len(prefix) :].lower(): value
        for name, value in source.items()
        if name.startswith(prefix)
    }


def _imported(name: str) -> Any:
    """Return the object that a name leads to: a module, or an attribute of one.

    Raises:
        ImportError: there is no such module, or it has no such attribute.
    """
    module, separator, attribute = name.partition(":")
    if not separator:
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            module, _, attribute = name.rpartition(".")
            if not module or error.name not in (name, module):
                raise
    found = import_module(module)
    if not hasattr(found, attribute):
        raise ImportError(f"The module {module} has no attribute {attribute!r}.")
    return getattr(found, attribute)


def _is_setting(name: str, value: Any) -> bool:
    """Whether an attribute is a setting, and not something that a module imports or defines."""
    if name in SETTINGS:
        return True
    return not (name.startswith("_") or isinstance(value, ModuleType) or callable(value))
