"""Secrets in the words of a command: what stands after `password=` is neither stored nor printed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

MASK = "***"
SECRET = frozenset(
    {"key", "keys", "apikey", "token", "secret", "secrets", "password", "passwd", "pwd", "passphrase", "credential",
     "credentials", "authorization"}
)  # fmt: skip
# What a nested value names: {api_key: abc}, {"token": "abc"}; quotes around the value may hold commas.
_NAMED = re.compile(
    r"""(?P<name>[A-Za-z][\w.-]*)(?P<sign>["']?\s*:\s*)(?P<value>"[^"]*"|'[^']*'|\{[^{}]*\}|\[[^\[\]]*\]|[^,}\]\s]+)"""
)
# A password may hold @ (the last one before a slash ends it), and, though it should not, a slash, as AWS's often do.
# Where a host may come first, digits before a slash are its port.
_OF_HOSTS = r"(?:https?|webhdfs|hdfs|ray|grpc|tcp|wss?):"
_USER = re.compile(
    rf"(?<![\w+.-])((?:(?P<host>{_OF_HOSTS})|(?!{_OF_HOSTS})[\w+.-]+:)//[^/@\s:]*):"
    r"(?:[^/\s]*|(?(host)(?!\d{1,5}[/?]))[^@\s]*)@",
    re.IGNORECASE,
)
_QUERY = re.compile(r"([?&]([\w.-]+)=)[^&\s#]*")
_WORD = re.compile(r"^(?P<key>[+~-]*[A-Za-z@][^=]*)=(?P<value>.*)$", re.DOTALL)


def is_secret(key: str) -> bool:
    """Whether a part of a dotted key ends in a word such as key, token, secret or password.

    `wandb.api_key`, `accessToken` and `--password` are, `key_dim` and `tokens` are not.
    """
    for part in re.split(r"[.:/\[\]]", key.strip("+~-\"' ")):
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", part).lower()
        if re.split(r"[_\s-]", words)[-1] in SECRET:
            return True
    return False


def masked(word: str) -> str:
    """One word of a command without the secrets in it: of its key, of keys within its value, of a URI."""
    found = _WORD.match(word)
    if found and is_secret(found["key"]):
        return f"{found['key']}={MASK}"
    if found and word.startswith("--"):  # --pass=NAME=VALUE
        word = f"{found['key']}={masked(found['value'])}"
    word = _NAMED.sub(
        lambda m: f"{m['name']}{m['sign']}{MASK}" if is_secret(m["name"]) and _inside(word, m) else m[0], word
    )
    return masked_uri(word)


def masked_uri(text: str) -> str:
    """A URI without its password and the secrets of its query: `s3://id:***@bucket?secret_key=***`."""
    text = _USER.sub(rf"\1:{MASK}@", text)
    return _QUERY.sub(lambda m: f"{m[1]}{MASK}" if is_secret(m[2]) else m[0], text)


def masked_words(words: Sequence[str]) -> list[str]:
    """The words of a command without secrets; the value of `--token VALUE` may be a word of its own."""
    found, hidden = [], False
    for word in words:
        found.append(MASK if hidden else masked(word))
        hidden = word.startswith("--") and "=" not in word and is_secret(word)
    return found


def command(words: Sequence[str]) -> str:
    """The words as one line that a shell takes, without secrets."""
    return shlex.join(masked_words(words))


def masked_command(line: str) -> str:
    """A command line that was stored, without the secrets that an older version may have left in it."""
    try:
        words = shlex.split(line)
    except ValueError:  # it was cut
        words = line.split()
    hidden = masked_words(words)
    return line if hidden == words else shlex.join(hidden)


def silenced(text: str, words: Sequence[str]) -> str:
    """`text`, such as an error about them, without the secrets of `words`."""
    for word, hidden in zip(words, masked_words(words), strict=True):
        if word == hidden:
            continue
        text = text.replace(word, hidden)
        value = word.partition("=")[2] if hidden.endswith(f"={MASK}") else word
        if len(value) > 3:  # a shorter one stands in other words, too
            text = text.replace(value, MASK)
    return text


def warned(fixed: Mapping[str, object]) -> tuple[str, ...]:
    """What is to be said of parameters that look like secrets. fixed: those that a sweep does not search."""
    found = [name for name, value in fixed.items() if is_secret(name) and isinstance(value, str) and value]
    return tuple(
        f"space.{name}: is a parameter, so its value stands in every table and tracker; give a secret by a variable of"
        " the environment (`fairsweep submit --pass NAME`)"
        for name in found
    )


def _inside(word: str, found: re.Match[str]) -> bool:
    """Whether a name stands in braces, and is not the scheme of a URI or a method's file."""
    return "{" in word[: found.start()]
