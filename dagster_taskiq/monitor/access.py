"""Who may ask the monitor: what is checked of each request, and what each answer tells browsers.

On a loopback address, everybody on the machine may look, and the request has to name that address:
the page of a stranger, whose name leads to 127.0.0.1, must not read what is here. With a token in
the environment, each request has to show it instead: as a bearer token (Prometheus, KEDA, scripts),
or as the password of any user (a browser asks for that).
"""

import asyncio
import base64
import binascii
import hmac
import ipaddress
import logging
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from aiohttp import web

from dagster_taskiq.settings.env import read_variable
from dagster_taskiq.wire.safe_text import printable

logger = logging.getLogger(__name__)

#: The variable with the token.
TOKEN_ENV = "DAGSTER_TASKIQ_MONITOR_TOKEN"

#: The header, and its value, that a request for an action has to have.
ACTION_HEADER = ("X-Requested-With", "dagster-taskiq")
#: The path that needs no token: it tells nothing.
OPEN_PATH = "/healthz"
#: The ports that an origin does not name.
PORTS = {"http": 80, "https": 443}
#: Requests with a wrong token are counted for so many seconds before they are logged.
WRONG_SECONDS = 60.0

#: What a browser is told with each answer: scripts, styles and images are those of this server
#: alone, and no other page shows this one inside itself.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; font-src 'self'; manifest-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "Server": "dagster-taskiq",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Access:
    """What is checked of each request."""

    def __init__(self, host: str, token: str | None) -> None:
        """Check nothing yet.

        Args:
            host: the address that is listened on.
            token: what each request has to show; ``None`` for nothing.
        """
        self._is_loopback = is_loopback(host)
        self._token = _bytes_of(token) if token is not None else None
        #: How many requests had a wrong token since the last line of the log about them; ``None``
        #: if that is longer ago than ``WRONG_SECONDS``.
        self._wrong: int | None = None

    def add_to(self, app: web.Application) -> None:
        """Check all requests of an application, and put the headers on all its answers."""

        @web.middleware
        async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
            refusal = self._refusal(request)
            return await handler(request) if refusal is None else refusal

        app.middlewares.append(check)
        app.on_response_prepare.append(_add_headers)

    def _refusal(self, request: web.Request) -> web.Response | None:
        if self._token is None:
            if not self._is_loopback or _names_loopback(request.host):
                return None
            return web.Response(
                status=403,
                text="This monitor answers this machine alone, by the name localhost or a loopback "
                f"address. To have it answer by another name, set {TOKEN_ENV} for it, or start it "
                "with --host.\n",
            )
        if request.path == OPEN_PATH:
            return None
        shown = _shown(request.headers.get("Authorization", ""))
        if shown is not None and hmac.compare_digest(shown, self._token):
            return None
        if shown is not None:
            self._note_wrong(request)
        return web.Response(
            status=401,
            text=f"Show the token of {TOKEN_ENV}: as a bearer token, or as the password of any "
            "user.\n",
            headers={"WWW-Authenticate": 'Basic realm="dagster-taskiq monitor", charset="UTF-8"'},
        )

    def _note_wrong(self, request: web.Request) -> None:
        """Log that a wrong token was shown: the first at once, those of the next minute in one."""
        if self._wrong is None:
            logger.warning(
                "%s has shown a wrong token; it is compared with %s.", request.remote, TOKEN_ENV
            )
            self._begin_counting()
        else:
            self._wrong += 1

    def _begin_counting(self) -> None:
        self._wrong = 0
        asyncio.get_running_loop().call_later(WRONG_SECONDS, self._log_wrong)

    def _log_wrong(self) -> None:
        if self._wrong:
            logger.warning(
                "%d more requests with a wrong token in the last %g s.", self._wrong, WRONG_SECONDS
            )
            self._begin_counting()
        else:
            self._wrong = None


def read_token() -> str | None:
    """Return the token from the environment; ``None`` if there is none.

    A file that it comes from may end in a line break, which no header can have: space around it is
    not a part of it.

    Raises:
        ConfigError: the variable is set, but empty.
    """
    token = read_variable(TOKEN_ENV)
    return None if token is None else token.strip()


def check_action(request: web.Request) -> str:
    """Return why a request may not change anything; empty if it may.

    A browser sends the password with whatever page asks it to. It lets only pages of this server
    send the header ``X-Requested-With``, or JSON.
    """
    if request.headers.get(ACTION_HEADER[0]) != ACTION_HEADER[1]:
        return f"An action needs the header {': '.join(ACTION_HEADER)}."
    if request.content_type != "application/json":
        return "An action needs the header Content-Type: application/json."
    origin = request.headers.get("Origin")
    if origin is not None and not _is_same_origin(origin, request.host):
        return f"Pages of {printable(origin)} may not ask for actions here."
    return ""


def _is_same_origin(origin: str, host: str) -> bool:
    """Return whether the headers ``Origin`` and ``Host`` name the same host and port.

    The scheme may differ: a proxy may have taken TLS off.
    """
    scheme = origin.partition("://")[0].lower()
    if scheme not in PORTS:
        return False
    try:
        ours, theirs = (urlsplit(each) for each in (f"{scheme}://{host}", origin))
        return (ours.hostname, ours.port or PORTS[scheme]) == (
            theirs.hostname,
            theirs.port or PORTS[scheme],
        )
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    """Return whether an address is one that only this machine reaches."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _names_loopback(header: str) -> bool:
    """Return whether the header ``Host`` of a request names a loopback address."""
    name = header.rpartition(":")[0] if header.rpartition(":")[2].isdigit() else header
    return is_loopback(name)


def _shown(header: str) -> bytes | None:
    """Return the token, or the password, of the header ``Authorization``."""
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "bearer":
        return _bytes_of(value.strip())
    if scheme.lower() == "basic":
        try:
            _, colon, password = base64.b64decode(value, validate=True).partition(b":")
        except (binascii.Error, ValueError):
            return None
        return password.strip() if colon else None
    return None


def _bytes_of(text: str) -> bytes:
    """Return the bytes that a text of a header, or of the environment, was read from."""
    return text.encode(errors="surrogateescape")


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)
    # A page of an older release must not talk to a newer monitor.
    response.headers.setdefault("Cache-Control", "no-cache")
