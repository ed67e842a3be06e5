"""The live tables over Arrow Flight: for notebooks, DuckDB, Polars and whatever else speaks Arrow. Read-only.

Who has the token reads; nobody writes. A flight's path is a table, or a table and a sweep; a ticket, and the command of
a descriptor, is the JSON of `service.tickets`.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.flight as fl

from fairsweep.analysis.store import StoreError
from fairsweep.cluster import doors
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.masking import masked_uri
from fairsweep.cluster.service import tickets
from fairsweep.cluster.service.rows import Look, Rows
from fairsweep.cluster.service.tickets import OF_A_SWEEP, TABLES, Ask, BadTicket

BATCH = 65_536  # rows of a message
READ_ONLY = "this server only reads: do_get, get_flight_info, get_schema and list_flights"
END_S = 5.0  # that answers under way may take at the end

T = TypeVar("T")


class _Guard(fl.ServerMiddlewareFactory):
    """Lets in who bears the token; everybody else gets one line, whatever they ask."""

    def __init__(self, token: str) -> None:
        self._token = token

    def start_call(self, info: Any, headers: Mapping[str, list[Any]]) -> None:
        given = headers.get("authorization") or []
        texts = [value.decode(errors="replace") if isinstance(value, bytes) else value for value in given]
        if not (len(texts) == 1 and doors.bears(texts[0], self._token)):
            raise fl.FlightUnauthenticatedError(
                "needs the token: `authorization: Bearer ...`, from the file that `fairsweep serve` named"
            )


class LiveTables(fl.FlightServerBase):
    """Serves `rows` from the moment it is made. location: a URI of gRPC; certificate: PEM, with its key."""

    def __init__(
        self, rows: Rows, token: str, location: str, certificate: tuple[bytes, bytes] | None = None
    ) -> None:
        self.rows = rows
        super().__init__(
            location,
            tls_certificates=[certificate] if certificate else None,
            middleware={"token": _Guard(token)},
        )

    # -- what is answered -------------------------------------------------------------------------------

    def do_get(self, context: Any, ticket: fl.Ticket) -> fl.RecordBatchStream:
        """The rows of a ticket."""
        table = _answered(lambda: self.rows.table(tickets.parse(ticket.ticket)))
        batches = table.to_batches(max_chunksize=BATCH)
        return fl.RecordBatchStream(pa.RecordBatchReader.from_batches(table.schema, batches))

    def get_flight_info(self, context: Any, descriptor: fl.FlightDescriptor) -> fl.FlightInfo:
        """What a descriptor stands for: columns, rows, and the ticket for them."""

        def look() -> tuple[Ask, pa.Table]:
            ask = _asked(descriptor)
            return ask, self.rows.table(ask)

        ask, table = _answered(look)
        endpoint = fl.FlightEndpoint(ask.ticket(), [])  # no place: where it was asked
        return fl.FlightInfo(table.schema, descriptor, [endpoint], table.num_rows, table.nbytes)

    def get_schema(self, context: Any, descriptor: fl.FlightDescriptor) -> fl.SchemaResult:
        """The columns of what a descriptor stands for, without reading rows."""

        def look() -> pa.Schema:
            ask = _asked(descriptor)
            layout = self.rows.schema(ask)
            tickets.check_columns(ask, layout)
            tickets.conditions(ask, layout)
            if ask.columns is None:
                return layout
            return pa.schema([layout.field(name) for name in ask.columns])

        return fl.SchemaResult(_answered(look))

    def list_flights(self, context: Any, criteria: bytes) -> Iterator[fl.FlightInfo]:
        """Each table of all sweeps, and those of each sweep; criteria: the name of the only sweep that is wanted."""

        def look() -> list[fl.FlightInfo]:
            wanted = tickets.sweep_of(criteria.decode(errors="replace") or None)
            store = self.rows.look()
            if wanted:
                return [_listed(ask, store.schema(ask)) for ask in (Ask(t, wanted) for t in OF_A_SWEEP)]
            return listed(store)

        return iter(_answered(look))

    def list_actions(self, context: Any) -> list[Any]:
        """None."""
        return []

    # -- what is refused --------------------------------------------------------------------------------

    def do_put(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """Refused."""
        raise fl.FlightUnauthorizedError(READ_ONLY)

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """Refused."""
        raise fl.FlightUnauthorizedError(READ_ONLY)

    def do_action(self, context: Any, action: Any) -> Any:
        """Refused."""
        raise fl.FlightUnauthorizedError(READ_ONLY)


def listed(store: Look) -> list[fl.FlightInfo]:
    """Each table of all sweeps, and those of each sweep that has not gone meanwhile."""
    found = [_listed(ask, store.schema(ask)) for ask in map(Ask, TABLES)]
    for name in store.sweeps():
        layouts = [(table, store.layout_or_none(table, name)) for table in OF_A_SWEEP]
        found += [_listed(Ask(table, name), layout) for table, layout in layouts if layout is not None]
    return found


def _listed(ask: Ask, layout: pa.Schema) -> fl.FlightInfo:
    path = fl.FlightDescriptor.for_path(*filter(None, (ask.table, ask.sweep)))
    return fl.FlightInfo(layout, path, [fl.FlightEndpoint(ask.ticket(), [])], -1, -1)


def _asked(descriptor: fl.FlightDescriptor) -> Ask:
    """What a descriptor stands for: its path, or its command as a ticket."""
    if descriptor.descriptor_type == fl.DescriptorType.CMD:
        return tickets.parse(descriptor.command)
    path = [part.decode(errors="replace") for part in descriptor.path or ()]
    if len(path) not in (1, 2):
        raise BadTicket(f"path of {len(path)} parts: must be a table, or a table and a sweep")
    return Ask(tickets.table_of(path[0]), tickets.sweep_of(path[1]) if len(path) == 2 else None)


def _answered(look: Callable[[], T]) -> T:
    """What `look` finds. Errors go to the client in one line; pyarrow (26) sends the traceback of all but Flight's own.

    Of those of `get_schema` it does all the same.
    """
    try:
        return look()
    except (BadTicket, StoreError) as error:
        raise fl.FlightServerError(masked_uri(" ".join(str(error).split()))) from None
    except Exception as error:  # a fault of ours ends one answer, not the server
        said = masked_uri(" ".join(str(error).split()))
        raise fl.FlightServerError(f"cannot be answered ({type(error).__name__}: {said})") from None


# -- running --------------------------------------------------------------------------------------------


def certificate(cert: str | None, key: str | None) -> tuple[bytes, bytes] | None:
    """The two PEM files; UserError for one without the other, or that cannot be read."""
    if not cert and not key:
        return None
    if not (cert and key):
        given, other = ("--tls-cert", "--tls-key") if cert else ("--tls-key", "--tls-cert")
        raise UserError(f"{given}={cert or key}: needs {other} too")
    found = []
    for option, file in (("--tls-cert", cert), ("--tls-key", key)):
        try:
            found.append(Path(file).read_bytes())
        except OSError as error:
            raise UserError(f"{option}={file}: cannot be read ({doors.why(error)})") from None
        if b"-----BEGIN " not in found[-1]:
            raise UserError(f"{option}={file}: is no PEM file (it has no line -----BEGIN ...)")
    return found[0], found[1]


def started(
    rows: Rows, token: str, host: str, port: int, pair: tuple[bytes, bytes] | None = None
) -> tuple[LiveTables, str, bool]:
    """A server that answers, its URI, and whether this machine alone reaches it. UserError if it cannot listen."""
    probe = doors.listen(host, port)
    try:  # gRPC makes a socket of its own; it would say less about one that cannot be
        address, free = probe.getsockname()[0], probe.getsockname()[1]
        called = doors.called(probe, host)
    finally:
        probe.close()
    scheme = "grpc+tls" if pair else "grpc"
    where = f"[{address}]" if probe.family == socket.AF_INET6 else address
    try:
        server = LiveTables(rows, token, f"{scheme}://{where}:{free}", pair)
    except pa.ArrowException as error:
        field = "--tls-cert, --tls-key" if pair else f"--port={port}"
        raise UserError(f"{field}: the server does not start ({' '.join(str(error).split())})") from None
    return server, f"{scheme}://{called}", doors.is_loopback(address)


def stop(server: LiveTables) -> bool:
    """Ends the server; False if answers are still under way after `END_S` (a client that reads no more)."""
    ending = threading.Thread(target=server.shutdown, name="fairsweep-serve-end", daemon=True)
    ending.start()
    ending.join(END_S)
    return not ending.is_alive()
