"""Text from outside (errors, paths, commands) made fit for a table: valid Unicode, printable, of bounded length."""

from __future__ import annotations

import re

# What Python decodes of bytes that are no UTF-8, and control characters that would steer a terminal.
_UNFIT = re.compile("[\ud800-\udfff\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def escaped(text: str) -> str:
    r"""`text` with lone surrogates and control characters as `\udce9` or `\x1b`; tabs and line breaks stay."""
    return _UNFIT.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def storable(text: str) -> bool:
    """Whether text from outside can be stored as it is: bytes that are no UTF-8 reach Python as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def bounded(text: str, limit: int) -> str:
    """`escaped(text)` in at most `limit` characters: the beginning and the end, and how much is between them."""
    text = escaped(text[: 2 * limit] + text[-2 * limit :]) if len(text) > 4 * limit else escaped(text)
    if len(text) <= limit:
        return text
    gap = f" ... [{len(text) - limit} characters left out] ... "
    room = max(0, limit - len(gap))
    head = room - room // 2
    return (text[:head] + gap + text[len(text) - room // 2 :])[:limit]
