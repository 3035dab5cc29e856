"""URLs of servers: their scheme, and how they are shown without secrets."""

#: Query arguments of a URL whose value is never shown.
SECRET_ARGUMENTS = ("password", "passwd", "secret", "token", "key")


def scheme_of(url: str) -> str:
    """Return what stands before the first colon, in lower case, whatever the rest is like."""
    scheme, colon, _ = url.partition(":")
    return scheme.lower() if colon else ""


def redact(url: str) -> str:
    """Return ``url`` with its password, and any secret-looking query argument, as ``***``.

    Works on whatever is given: a text that is no URL comes back without its user part. Where it
    cannot be told whether an ``@`` ends a password or is part of one, nothing after the scheme is
    shown.
    """
    head, at, tail = url.rpartition("@")
    if at:
        scheme, slashes, user = head.partition("://")
        if not slashes:
            head = "***"
        elif "?" in user:
            return f"{scheme}{slashes}***"
        else:
            name, colon, _ = user.partition(":")
            head = f"{scheme}{slashes}{name}{':***' if colon else ''}"
        url = f"{head}@{tail}"
    base, mark, query = url.partition("?")
    if mark:
        arguments = []
        for argument in query.split("&"):
            name, equals, value = argument.partition("=")
            secret = any(word in name.lower() for word in SECRET_ARGUMENTS)
            arguments.append(f"{name}{equals}{'***' if secret else value}")
        url = f"{base}?{'&'.join(arguments)}"
    return url
