"""The engine's URL for a URL of Celery's."""

import re

from dagster_celery._translate.rows import Remark, did_you_mean
from dagster_celery._translate.urls.backend_schemes import BACKENDS
from dagster_celery._translate.urls.broker_schemes import BROKERS
from dagster_celery._translate.urls.other import SHARED_WITH_BROKER, not_used
from dagster_celery._translate.urls.parts import BARE_HOST
from dagster_celery._translate.urls.scheme import Beside
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.dagster_storage import is_storage
from dagster_taskiq.settings.urls import redact, scheme_of
from dagster_taskiq.transport.registry import BACKENDS as ENGINE_BACKENDS
from dagster_taskiq.transport.registry import BROKERS as ENGINE_BROKERS


def translate_broker(url: str, beside: Beside | None = None) -> tuple[str, tuple[Remark, ...]]:
    """Return the engine's URL of a Celery broker, and remarks on it.

    Args:
        url: as Celery takes it: one URL, several with ``;`` between them, or a host name alone.
        beside: what Celery has beside the URL. Without the name of a master, a URL of sentinels
            has none, and the engine asks for it.

    Raises:
        ConfigError: nothing here serves the scheme, or the URL cannot be read.
    """
    text = url.strip()
    if is_storage(text):
        return text, ()
    if text and "://" not in text:
        text = f"{BARE_HOST}{text}"
    return _translated(url, text, "broker", beside or Beside())


def translate_backend(url: str, beside: Beside | None = None) -> tuple[str, tuple[Remark, ...]]:
    """Return the engine's URL of a Celery result backend, and remarks on it.

    Dagster's event log has the results of steps, and the backend only the state of tasks and
    workers. So if nothing here serves the backend, that state is kept on the broker's own server,
    and nothing is lost.

    Args:
        url: as Celery takes it: a URL, an alias such as ``redis``, or the path of a class.
        beside: as for :func:`translate_broker`.

    Raises:
        ConfigError: Celery does not know the scheme either, or the URL cannot be read.
    """
    text = url.strip() or "disabled"
    beside = beside or Beside()
    if is_storage(text):
        return text, ()
    if "://" not in text and text.split("+")[0] in BACKENDS:
        text = f"{text}://"
    if re.fullmatch(r"[\w.]+[.:]\w+", text):
        return SHARED_WITH_BROKER, (
            Remark(
                "backend",
                f'The backend class "{text}" {not_used(beside)}',
                is_loss=True,
            ),
        )
    return _translated(url, text, "backend", beside)


def _translated(given: str, text: str, kind: str, beside: Beside) -> tuple[str, tuple[Remark, ...]]:
    """Look up a URL's scheme and translate it.

    Args:
        given: as the user wrote it.
        text: with a scheme.
        kind: ``broker`` or ``backend``.
        beside: what Celery has beside the URL.
    """
    shown = redact(given.strip())
    if not text:
        raise ConfigError(
            f"The URL of the {kind} is empty. Leave it out, or name one such as redis://HOST:6379/0."
        )
    rows, own = (BROKERS, ENGINE_BROKERS) if kind == "broker" else (BACKENDS, ENGINE_BACKENDS)
    scheme = scheme_of(text)
    if scheme in own.entries and scheme not in rows:
        return text, ()
    first, plus, rest = scheme.partition("+")
    row = rows.get(first)
    if plus and row is not None and row.after_plus is not None and rest not in row.after_plus:
        row = None
    if row is None:
        raise ConfigError(
            f'Nothing serves the {kind} "{shown}", neither here nor in Celery.'
            f"{did_you_mean(scheme or text, [*rows, *own.entries])} Served are: "
            f"{', '.join(f'{each}://' for each in own.entries)}."
        )
    if row.translate is None:
        raise ConfigError(f'Nothing here serves the {kind} "{shown}": {row.explanation}')
    found = row.translate(text, beside)
    if found.url == given.strip() and not found.notes:
        return found.url, ()
    sentences = [f'The {kind} "{shown}" is "{redact(found.url)}" here.', *found.notes]
    return found.url, (Remark(kind, " ".join(sentences), found.is_loss),)
