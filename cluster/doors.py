"""How others get in: addresses that are listened on, and the token that they must have.

The token of `fairsweep serve` and of a driver's metrics lies in one file of the user's home, so that what runs there as
the same user finds it, and a server that is started again still lets its clients in.
"""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import os
import secrets
import socket
import tempfile
from pathlib import Path

from fairsweep.cluster.errors import UserError

TOKEN_FILE = "FAIRSWEEP_TOKEN_FILE"  # the variable that names another file
LEAST = 16  # characters of a token


def listen(host: str, port: int, setting: str = "--port") -> socket.socket:
    """A socket that listens. UserError in one line if the port is taken or the host none of this machine."""
    try:
        (family, kind, _, _, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UserError(f"--host={host}: is no address or name of this machine ({why(error)})") from None
    made = socket.socket(family, kind)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind(address)
        made.listen(64)
    except OSError as error:
        made.close()
        if error.errno in (98, 48, 10048):
            raise UserError(
                f"{setting}={port}: is taken; choose another, or 0 for one that is free"
            ) from None
        field = f"{setting}={port}" if isinstance(error, PermissionError) else f"--host={host}"
        raise UserError(f"{field}: cannot be listened on ({why(error)})") from None
    return made


def port_of(text: str) -> int:
    """The value of an option `--port`."""
    if not (text.isascii() and text.isdecimal()) or int(text) > 65535:
        raise UserError(f"--port={text}: must be a whole number from 0 to 65535")
    return int(text)


def why(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error)


def is_loopback(address: str) -> bool:
    """Whether this machine alone reaches an address. address: of a socket, not a name."""
    found = ipaddress.ip_address(address.partition("%")[0])
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback


def called(listening: socket.socket, host: str) -> str:
    """How others call what listens: HOST:PORT; every address is called by the machine's name."""
    if ipaddress.ip_address(listening.getsockname()[0].partition("%")[0]).is_unspecified:
        host = socket.gethostname()
    return f"[{host}]:{listening.getsockname()[1]}" if ":" in host else f"{host}:{listening.getsockname()[1]}"


# -- tokens -------------------------------------------------------------------------------------------


def new_token() -> str:
    """A secret of 192 bits, fit for a URL."""
    return secrets.token_urlsafe(24)


def same(given: str, token: str) -> bool:
    """Whether a token is the right one, in a time that does not tell how far it is."""
    return hmac.compare_digest(given.encode(errors="replace"), token.encode())


def bears(header: str, token: str) -> bool:
    """Whether the value of a header `Authorization` is `Bearer <token>`."""
    scheme, _, given = header.partition(" ")
    return scheme.lower() == "bearer" and same(given.strip(), token)


def token_file() -> Path:
    """Where the user's token lies."""
    return Path(os.environ.get(TOKEN_FILE) or "~/.fairsweep/token").expanduser()


def read_token() -> str | None:
    """The user's token; None if there is none. UserError for one that others can read, or that is no token."""
    file = token_file()
    try:
        text, mode = file.read_text(errors="replace").strip(), file.stat().st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({why(error)}); it holds the token") from None
    if os.name == "posix" and mode & 0o077:
        raise UserError(
            f"{file}: others on this machine can use the token in it (mode {mode & 0o777:04o}); chmod 600 {file}, "
            "or delete it and a new one is made"
        )
    if len(text) < LEAST or not (text.isascii() and text.isprintable()) or " " in text:
        raise UserError(
            f"{file}: holds no token, which is one line of at least {LEAST} letters and digits; delete it and a new "
            "one is made"
        )
    return text


def users_token() -> str:
    """The user's token, made at the first use: a file that its owner alone can read. UserError as `read_token`."""
    found = read_token()
    if found is not None:
        return found
    file = token_file()
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=".token-")  # 0600, as mkstemp makes files
        with os.fdopen(handle, "w") as out:
            out.write(new_token() + "\n")
        with contextlib.suppress(FileExistsError):  # another process was first: its token is taken
            os.link(name, file)
        os.unlink(name)
    except OSError as error:
        raise UserError(
            f"{file}: the token cannot be written ({why(error)}); {TOKEN_FILE}=FILE says where else it is to lie"
        ) from None
    found = read_token()
    if found is None:
        raise UserError(f"{file}: was deleted while it was written; try again")
    return found
