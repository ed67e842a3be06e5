"""`fairsweep.connect`: the live tables of a `fairsweep serve`, as Arrow, which DuckDB and Polars take too.

live = fairsweep.connect("grpc://127.0.0.1:8815")
live.table("trials", "mine", columns=["trial", "value"], where=[("state", "==", "complete")])
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.flight as fl

from fairsweep.cluster import doors
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.service import tickets
from fairsweep.cluster.service.tickets import Ask, BadTicket

AGAIN_S = (0.2, 0.5, 1.0, 2.0, 4.0)  # between tries while nothing answers
# A channel of its own that is made again: gRPC would share the old one's, and try it again after up to two minutes.
CHANNEL = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 500)]
T = TypeVar("T")


def connect(
    uri: str, token: str | None = None, *, tls_ca: str | Path | None = None, timeout: float = 60.0
) -> Live:
    """The live tables at `uri`. UserError in one line if nobody answers there, or the token is refused.

    token: what stands in the file that the server names; None: what this user's own file holds, which is the same where
    both run as one user. tls_ca: PEM file of who signed the server's certificate, if no public authority did. timeout:
    seconds an answer may take.
    """
    token = token or doors.read_token()
    if token is None:
        raise UserError(
            f"token is missing: {doors.token_file()} does not exist; copy it from where `fairsweep serve` runs, or give"
            " token="
        )
    options: dict[str, Any] = {}
    if tls_ca is not None:
        try:
            options["tls_root_certs"] = Path(tls_ca).read_bytes()
        except OSError as error:
            raise UserError(f"tls_ca={tls_ca}: cannot be read ({doors.why(error)})") from None
    live = Live(uri, token, options, timeout)
    live.schema("sweeps")
    return live


class Live:
    """The tables of a `fairsweep serve` as they are at each call; see `connect`. Reconnects by itself."""

    def __init__(self, uri: str, token: str, options: dict[str, Any], timeout: float) -> None:
        self.uri = uri
        self._options = options
        self._call = fl.FlightCallOptions(
            timeout=timeout, headers=[(b"authorization", f"Bearer {token}".encode())]
        )
        self._client = self._made()

    def _made(self) -> fl.FlightClient:
        try:
            return fl.FlightClient(self.uri, generic_options=CHANNEL, **self._options)
        except (pa.ArrowException, ValueError) as error:
            raise UserError(
                f"uri={self.uri}: must be what `fairsweep serve` prints, as grpc://127.0.0.1:8815 ({_line(error)})"
            ) from None

    def __repr__(self) -> str:
        return f"Live({self.uri!r})"

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    # -- questions --------------------------------------------------------------------------------------

    def sweeps(self) -> list[str]:
        """Names of the sweeps, the newest last."""
        paths = self._ask(lambda: [f.descriptor.path for f in self._client.list_flights(options=self._call)])
        return list(dict.fromkeys(path[1].decode() for path in paths if len(path) == 2))

    def schema(self, table: str, sweep: str | None = None) -> pa.Schema:
        """The columns of a table."""
        descriptor = fl.FlightDescriptor.for_command(_asked(table, sweep, None, ()).ticket())
        return self._ask(lambda: self._client.get_schema(descriptor, self._call).schema)

    def table(
        self,
        table: str = "results",
        sweep: str | None = None,
        columns: Sequence[str] | None = None,
        where: Sequence[Sequence[Any]] = (),
    ) -> pa.Table:
        """The rows of a table (sweeps, trials, results, comparisons, architectures, claims), as they are now.

        sweep: of this one; None: of all. columns: these alone. where: conditions that a row must meet, each a column,
        an operator (== != < <= > >= in) and a value; only what meets them is sent.
        """
        ticket = fl.Ticket(_asked(table, sweep, columns, where).ticket())
        return self._ask(lambda: self._client.do_get(ticket, self._call).read_all())

    def reader(
        self,
        table: str = "results",
        sweep: str | None = None,
        columns: Sequence[str] | None = None,
        where: Sequence[Sequence[Any]] = (),
    ) -> pa.RecordBatchReader:
        """As `table`, a batch at a time: for what is larger than memory."""
        ticket = fl.Ticket(_asked(table, sweep, columns, where).ticket())
        return self._ask(lambda: self._client.do_get(ticket, self._call).to_reader())

    def _ask(self, question: Callable[[], T]) -> T:
        for pause in (*AGAIN_S, None):
            try:
                return question()
            except (fl.FlightError, pa.ArrowException, OSError) as error:
                if not _is(error, fl.FlightUnavailableError, "Unavailable"):
                    raise UserError(f"{self.uri}: {_said(error)}") from None
                if pause is None:
                    raise UserError(
                        f"uri={self.uri}: nobody answers ({_line(error)}); is `fairsweep serve` running there?"
                    ) from None
                time.sleep(pause)
                with contextlib.suppress(Exception):
                    self._client.close()
                self._client = self._made()
        raise AssertionError


def _asked(
    table: str, sweep: str | None, columns: Sequence[str] | None, where: Sequence[Sequence[Any]]
) -> Ask:
    try:
        return tickets.ask(table, sweep, columns, where)
    except BadTicket as error:
        raise UserError(str(error)) from None


def _is(error: BaseException, kind: type[BaseException], word: str) -> bool:
    """Whether it is of this kind; pyarrow's `get_schema` (26) knows no kinds, and says in words which it is."""
    return isinstance(error, kind) or f"Detail: {word}" in str(error)


def _said(error: BaseException) -> str:
    if _is(error, fl.FlightTimedOutError, "TimedOut"):
        return "no answer in time; timeout= says how many seconds it may take"
    return _line(error)


def _line(error: BaseException) -> str:
    """What the server said, without what pyarrow and gRPC (26) put after it."""
    said = str(error).partition(". Detail: ")[0].partition(" gRPC client debug context: ")[0]
    return " ".join(said.split()) or type(error).__name__
