"""Storage that fails for a while: which errors pass by themselves, and how long one waits for that."""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PAUSE_S = (
    1.0  # between tries; what asks has tried more than once itself (Arrow 26: three times in a few seconds)
)
SAY_AFTER_S = 5.0
HURRIED_S = 2.0
LAST_TRIES = 2  # once nobody waits any more; each may take seconds
_PASSING_ERRNO = {
    errno.EAGAIN,
    errno.EBUSY,
    errno.ETIMEDOUT,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EPIPE,
}
_AWS = re.compile(r"AWS Error ([A-Z_]+)(?: \(HTTP status (\d+)\))?")
_PASSING_AWS = {
    "SLOW_DOWN", "SERVICE_UNAVAILABLE", "INTERNAL_FAILURE", "THROTTLING", "REQUEST_TIMEOUT", "NETWORK_CONNECTION",
}  # fmt: skip
_PASSING_WORDS = re.compile(
    r"slow ?down|reduce your request rate|unavailable|throttl|timed? ?out|connection|try again|temporar"
    r"|internal (server )?error|too many requests|\b(429|50[0234])\b",
    re.IGNORECASE,
)


def passes(error: BaseException) -> bool:
    """Whether what failed with `error`, of an object store, may well succeed when it is asked for again."""
    if isinstance(error, (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)):
        return False
    if not isinstance(error, (OSError, TimeoutError)):
        return False
    named = _AWS.search(str(error))
    if named is not None:  # Arrow's own words, around names that are the user's
        status = int(named[2] or 0)
        return named[1] in _PASSING_AWS or status >= 500 or status == 429
    known = isinstance(error, (ConnectionError, TimeoutError)) or error.errno in _PASSING_ERRNO
    return known or _PASSING_WORDS.search(str(error)) is not None


class Patience:
    """How long is waited for an object store that does not answer. A reader does not wait, a running sweep does."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.said: Callable[[str], None] | None = None  # is told while one waits, and when that is over
        self._until: float | None = None  # after which nothing is waited for, monotonic
        self._failed = 0  # calls since then

    def calm(self, seconds: float) -> None:
        """From now on one waits so long."""
        self.seconds, self._until, self._failed = seconds, None, 0

    def hurry(self) -> None:
        """Somebody waits for the end: nothing is waited for any more but for `HURRIED_S` seconds."""
        if self._until is None:
            self._until = time.monotonic() + HURRIED_S

    @property
    def given_up(self) -> bool:
        """Nothing is asked for any more."""
        return self._failed >= LAST_TRIES

    def say(self, text: str) -> None:
        if self.said is not None:
            self.said(text)

    def trying(self, call: Callable[[], T], where: str) -> T:
        """What `call` gives; it is called again as long as it fails in a way that passes. where: for who reads it."""
        began, told = time.monotonic(), False
        if self.given_up:
            raise OSError(f"{where} did not answer")
        while True:
            try:
                found = call()
            except Exception as error:
                waited = time.monotonic() - began
                late = self._until is not None and time.monotonic() >= self._until
                self._failed += late and passes(error)
                if late or waited >= self.seconds or not passes(error):
                    raise
                if waited >= SAY_AFTER_S and not told:
                    told = True
                    why = (str(error).strip() or type(error).__name__).splitlines()[0]
                    self.say(
                        f"{where} does not answer; it is tried for {self.seconds / 60:g} minutes ({why})"
                    )
                time.sleep(PAUSE_S)
                continue
            if told:
                self.say(f"{where} answers again, after {time.monotonic() - began:.0f} s")
            return found
