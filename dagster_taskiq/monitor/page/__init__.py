"""The web page of the monitor: files that a browser reads as they are, and how they are served.

The page holds nothing of the fleet, so that it needs no authentication. It reads ``/events`` with
``fetch``, shows what comes, and asks for a token when it is refused. Text of the fleet becomes text
nodes, and never HTML.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

#: The file that is served as ``/``. The others are served below ``/page/``, by their names.
INDEX = "index.html"

#: What is sent with each file. Scripts, styles and data come from the monitor alone, no script or
#: style is inline, and no other site can put the page into a frame.
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}

_CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class PageFile:
    """One file of the page."""

    content: bytes
    #: The value of the header ``Content-Type``.
    content_type: str
    #: Changes with the content; the value of the header ``ETag``, with its quotation marks.
    etag: str


@cache
def page_files() -> dict[str, PageFile]:
    """Return the files of the page by their names, ``INDEX`` among them."""
    found = {}
    for file in files(__name__).iterdir():
        content_type = _CONTENT_TYPES.get(file.name[file.name.rfind(".") :])
        if content_type is not None:
            content = file.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:20]}"'
            found[file.name] = PageFile(content, content_type, etag)
    return found
