"""Texts from elsewhere, made safe to be printed."""


def printable(text: str) -> str:
    """Return a text as one line, in which what cannot be seen is shown as escapes.

    That is control characters, which a terminal would obey, and those that change the direction of
    a line.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
