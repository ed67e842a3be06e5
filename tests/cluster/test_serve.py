"""The live tables over Arrow Flight: the rows of the files, to who has the token, and nothing to anybody else."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.flight as fl
import pytest

import fairsweep
from fairsweep.analysis import upkeep
from fairsweep.analysis.store import Store
from fairsweep.cluster import doors
from fairsweep.cluster.cli import run_cli
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.service import flight, tickets
from fairsweep.cluster.service.client import Live
from fairsweep.cluster.service.rows import Kept, Rows
from fairsweep.cluster.service.tickets import OPERATORS, TABLES, BadTicket
from tests.cluster.test_conductor import engine
from tests.cluster.test_studies import BEGAN, ROWS, written

TOKEN = "a-token-of-the-test"
CALL = fl.FlightCallOptions(timeout=60, headers=[(b"authorization", f"Bearer {TOKEN}".encode())])


@contextlib.contextmanager
def serving(
    store: Store, only: str | None = None, port: int = 0, kept: Kept | None = None
) -> Iterator[tuple[flight.LiveTables, Live]]:
    server, uri, alone = flight.started(Rows(store, only, kept), TOKEN, "127.0.0.1", port)
    assert alone
    try:
        with fairsweep.connect(uri, TOKEN) as live:
            yield server, live
    finally:
        assert flight.stop(server)


def client_of(live: Live) -> fl.FlightClient:
    return fl.connect(live.uri)


def row(k: int, step: int) -> dict[str, Any]:
    return {
        "trial": f"{k:05d}-0",
        "config_id": k,
        "seed": 0,
        "step": step,
        "wall_s": 0.5,
        "time": BEGAN + timedelta(seconds=step),
        "metric.loss": 1.0 / (k + step),
    }


# -- the same rows ----------------------------------------------------------------------------------------


def test_every_table_is_that_of_the_store(tmp_path: Path) -> None:
    store = written(tmp_path, name="one")
    written(tmp_path, ROWS[:5], "two", close=False)
    engine(tmp_path, "trainable=test_trade", "metric=[val_loss,size]", "budget.trials=3", name="three").run()
    store.write_derived("claims", "run", [{"claim": "c", "sweep": "one", "effect": 0.25}])
    store.write_derived("comparisons", "cmp", [{"method": "m", "repeat": 0, "score": 0.5}])
    with serving(store) as (_, live):
        assert live.sweeps() == store.sweeps() == ["one", "two", "three"]
        for table in TABLES:
            for sweep in (None, *store.sweeps()):
                wanted, found = store.table(table, sweep), live.table(table, sweep)
                assert found.schema.equals(wanted.schema), (table, sweep)
                # Not `equals`: NaN is not equal to itself.
                assert repr(found.to_pylist()) == repr(wanted.to_pylist()), (table, sweep)
                assert live.schema(table, sweep).equals(wanted.schema)
        assert live.table("claims", "one").num_rows == live.table("claims", "run").num_rows == 1
        assert live.table("comparisons", "cmp")["score"].to_pylist() == [0.5]
        assert live.reader("results").read_all().num_rows == store.table("results").num_rows


def test_while_a_sweep_is_written_the_rows_are_those_of_that_moment(tmp_path: Path) -> None:
    """Each answer has all that was on disk when it was asked for, in order, and nothing that never was."""
    store, acknowledged, over = Store(tmp_path), [0], threading.Event()

    def write() -> None:
        with store.create("s", {"paper": "p"}, config_fields=[], metric_names=["loss"]) as writer:
            writer.seal_every = 0.05
            ready.set()
            for k in range(150):
                writer.trial(f"{k:05d}-0", number=k, config_id=k, seed=0, state="running")
                writer.results([row(k, step) for step in range(1, 5)])
                acknowledged[0] += 4
                if k % 15 == 14:  # not to be done before anybody has looked
                    looked.clear()
                    looked.wait(10)
            writer.close(state="finished")
        over.set()

    ready, looked, counts = threading.Event(), threading.Event(), []
    thread = threading.Thread(target=write)
    thread.start()
    assert ready.wait(30)
    with serving(store) as (_, live):
        while not over.is_set():
            before = acknowledged[0]
            seqs = live.table("results", "s", columns=["seq", "trial", "step"])
            few = live.table(where=[("step", "==", 1)], columns=["trial"])
            upto = acknowledged[0] + 4
            assert before <= seqs.num_rows <= upto and before <= 4 * few.num_rows <= upto + 4
            pairs = list(zip(seqs["trial"].to_pylist(), seqs["step"].to_pylist(), strict=True))
            assert pairs == [(f"{k // 4:05d}-0", k % 4 + 1) for k in range(seqs.num_rows)]
            counts.append(seqs.num_rows)
            looked.set()
        thread.join()
        for table in ("results", "trials", "sweeps"):
            assert live.table(table, "s").equals(store.table(table, "s"))
        assert live.table("results", "s").num_rows == 600 and len(set(counts)) > 3
        assert live.table("sweeps")["state"].to_pylist() == ["finished"]


def test_what_is_kept_is_read_again_once_a_file_has_changed_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = written(tmp_path, name="one")
    written(tmp_path, ROWS[:5], "two", close=False)
    read: list[str] = []
    piece = Store.piece

    def counted(self: Store, name: str, sweep: str, columns: Any = None) -> pa.Table:
        read.append(f"{name} {sweep}")
        return piece(self, name, sweep, columns)

    monkeypatch.setattr(Store, "piece", counted)
    rows = Rows(store)
    first = rows.table(tickets.ask("results"))
    assert sorted(read) == ["results one", "results two", "sweeps one", "sweeps two"]
    read.clear()
    assert rows.table(tickets.ask("results", where=[("step", ">", 1)])).num_rows < first.num_rows
    assert read == []
    with store.open("two") as writer:
        writer.results([{"trial": "00001-0", "step": 9, "metric.val_loss": 7.0}])
    assert rows.table(tickets.ask("results")).num_rows == first.num_rows + 1
    assert set(read) == {"results two", "sweeps two"}


def test_what_is_kept_is_bounded(tmp_path: Path) -> None:
    kept = Kept(most=10_000)
    for k in range(100):
        table = pa.table({"a": pa.array(range(100), pa.int64())})
        assert kept.get((k,), "s", lambda table=table: table).num_rows == 100  # type: ignore[misc]
        assert kept.size <= 10_000
    large = pa.table({"a": pa.array(range(2000), pa.int64())})
    assert kept.get(("large",), "s", lambda: large) is large and kept.size <= 10_000
    assert kept.get(("large",), "s", lambda: table) is table  # not kept, so asked again
    assert kept.get((99,), "t", lambda: table) is table and kept.size <= 10_000


def test_one_sweep_or_comparison_alone_can_be_served(tmp_path: Path) -> None:
    store = written(tmp_path, ROWS[:3], "mine")
    for name in ("mine.2", "cmp.a-d0-0", "cmp.b-d0-0", "cmpx.a"):
        written(tmp_path, ROWS[:2], name)
    store.write_derived("comparisons", "cmp", [{"method": "m"}])
    with serving(store, "mine") as (_, live):
        assert live.sweeps() == ["mine"] and live.table("trials").num_rows == 3
        assert live.table("comparisons").num_rows == 0
        with pytest.raises(UserError, match=r"sweep=mine\.2: this server has mine alone"):
            live.table("trials", "mine.2")
    with serving(store, "cmp") as (_, live):
        assert sorted(live.sweeps()) == ["cmp.a-d0-0", "cmp.b-d0-0"] and live.table("trials").num_rows == 4
        assert live.table("comparisons").num_rows == 1
        with pytest.raises(UserError, match="this server has cmp alone"):
            live.schema("results", "cmpx.a")


def test_a_damaged_sweep_is_left_out_and_named(tmp_path: Path) -> None:
    store = written(tmp_path, name="good")
    written(tmp_path, name="bad")
    (tmp_path / "trials" / "bad" / "trials.parquet").write_bytes(b"no parquet")
    rows = Rows(store)
    with pytest.warns(UserWarning, match="bad is left out") as said:
        for _ in range(3):
            assert set(rows.table(tickets.ask("trials"))["sweep"].to_pylist()) == {"good"}
    assert len(said) == 1
    assert rows.table(tickets.ask("results", "bad")).num_rows > 0
    with serving(store) as (_, live), pytest.raises(UserError, match=r"trials\.parquet cannot be read"):
        live.table("trials", "bad")


def test_a_sweep_that_goes_while_it_is_asked_for_is_left_out(tmp_path: Path) -> None:
    store = written(tmp_path, name="stays")
    written(tmp_path, ROWS[:5], "renamed")
    look = Rows(store, None, Kept(0)).look()  # nothing is kept: all is read when it is wanted
    assert set(look.sweeps()) == {"stays", "renamed"}
    upkeep.rename(store, "renamed", "other")
    assert look.schema(tickets.ask("trials")).names == store.table("trials", "stays").schema.names
    assert set(look.of_sweeps(tickets.ask("trials"))["sweep"].to_pylist()) == {"stays"}
    paths = [info.descriptor.path for info in flight.listed(look)]
    assert [b"trials", b"stays"] in paths and [b"trials", b"renamed"] not in paths


def test_no_answer_has_the_password_of_the_store(tmp_path: Path) -> None:
    store = written(tmp_path)
    store.uri = "s3://me:hunter-two@bucket/sweeps?secret_key=hunter-three"
    with serving(store) as (_, live), pytest.raises(UserError, match=r"me:\*\*\*@bucket") as refused:
        live.table("trials", "none")
    assert "hunter" not in str(refused.value)


# -- what is asked for ------------------------------------------------------------------------------------


def test_columns_and_conditions_are_met_by_the_server(tmp_path: Path) -> None:
    store = written(tmp_path)
    rows, whole = Rows(store), store.table("trials")
    when = BEGAN + timedelta(minutes=30)
    for where, wanted in (
        ([("state", "==", "complete")], pc.equal(whole["state"], "complete")),
        ([("state", "!=", "complete")], pc.not_equal(whole["state"], "complete")),
        ([("state", "in", ["paused", "failed"])], pc.is_in(whole["state"], pa.array(["paused", "failed"]))),
        ([("number", "<", 3), ("seed", "==", 1)], pc.and_(pc.less(whole["number"], 3), pc.equal(whole["seed"], 1))),
        ([("number", "<=", 2.5)], pc.less_equal(whole["number"], 2)),
        ([("number", "<", 10**30)], pc.is_valid(whole["number"])),
        ([("number", "in", [1, 3.5, 4])], pc.is_in(whole["number"], pa.array([1, 4]))),
        ([("value", ">=", 1)], pc.greater_equal(whole["value"], 1.0)),
        ([("value", "==", None)], pc.is_null(whole["value"])),
        ([("value", "!=", None)], pc.is_valid(whole["value"])),
        ([("config.bias", "==", True)], pc.equal(whole["config.bias"], True)),
        ([("config.lr", "in", [0.1, 0.02])], pc.is_in(whole["config.lr"], pa.array([0.1, 0.02]))),
        ([("started", ">", when)], pc.greater(whole["started"], pa.scalar(when))),
        ([("started", "<=", "2026-03-29T01:00:00Z")], pc.less_equal(whole["started"], pa.scalar(when))),
        ([("started", "<=", "2026-03-29 01:00")], pc.less_equal(whole["started"], pa.scalar(when))),
    ):  # fmt: skip
        found = rows.table(tickets.ask("trials", columns=["trial", "number"], where=where))
        assert found.column_names == ["trial", "number"]
        expected = whole.filter(pc.fill_null(wanted, False))["trial"].to_pylist()
        assert found["trial"].to_pylist() == expected, where
        assert expected or where[0][0] == "started"
    ask = tickets.ask("results", columns=["step"], where=[("metric.val_loss", ">", 0)])
    assert rows.table(ask).column_names == ["step"]


@pytest.mark.parametrize(
    ("ticket", "said"),
    [
        (b"", "is no JSON"),
        (b"\xff\xfe", "is no JSON"),
        (b"[" * 5_000, "is no JSON"),
        (b'{"table": NaN}', "is no JSON"),
        (b" " * 70_000, "70000 bytes; at most 65536"),
        (b"[1]", "must be a JSON object"),
        (b"{}", "table=None: must be one of sweeps, trials"),
        (b'{"table": "trials", "colums": []}', "colums: no such key; keys are table, sweep, columns, filter"),
        (b'{"table": "events"}', "table=events: must be one of"),
        (b'{"table": "trials", "sweep": "../s"}', "sweep=../s: must be the name of a sweep"),
        (b'{"table": "trials", "sweep": "t"}', "t: "),
        (b'{"table": "trials", "columns": []}', "columns=[]: must be a list of names"),
        (b'{"table": "trials", "columns": "trial"}', "columns=trial: must be a list of names"),
        (b'{"table": "trials", "columns": ["trial", "trial"]}', "names a column twice"),
        (b'{"table": "trials", "columns": ["vlaue"]}', "has no column vlaue; did you mean value?"),
        (b'{"table": "trials", "filter": {"value": 1}}', "must be a list of at most 100 conditions"),
        (b'{"table": "trials", "filter": [["value", 1]]}', "filter[0]=['value', 1]: must be [column, operator, value]"),
        (b'{"table": "trials", "filter": [["value", "~", 1]]}', "operator ~: must be one of == != < <= > >= in"),
        (b'{"table": "trials", "filter": [["value", "<", "1"]]}', "filter[0]: value < 1: must be a number"),
        (b'{"table": "trials", "filter": [["value", "<", true]]}', "value < True: must be a number"),
        (b'{"table": "trials", "filter": [["value", "<", null]]}', "absent values are asked for by == null"),
        (b'{"table": "trials", "filter": [["value", "==", {}]]}', "must be a number, text, true, false or null"),
        (b'{"table": "trials", "filter": [["value", "in", []]]}', "`in` needs a list of 1 to 1000 values"),
        (b'{"table": "trials", "filter": [["value", "<", 1%b]]}' % (b"0" * 400), "is beyond every number"),
        (b'{"table": "trials", "filter": [["state", "==", 1]]}', "state == 1: must be text"),
        (b'{"table": "trials", "filter": [["state", "==", "\\ud800"]]}', "must be text"),
        (b'{"table": "trials", "filter": [["config.bias", "<", true]]}', "has no order; operators are == != in"),
        (b'{"table": "trials", "filter": [["config.bias", "==", 1]]}', "must be true or false"),
        (b'{"table": "trials", "filter": [["started", ">", "noon"]]}', "must be a time such as 2026-11-29T20:15:00Z"),
        (b'{"table": "trials", "filter": [["statee", "==", "x"]]}', "has no column statee; did you mean state"),
    ],
)  # fmt: skip
def test_a_ticket_that_cannot_be_understood_is_answered_in_one_line(
    live_store: tuple[Rows, Live], ticket: bytes, said: str
) -> None:
    rows, live = live_store
    with pytest.raises((BadTicket, Exception)) as refused:
        rows.table(tickets.parse(ticket))
    assert said in str(refused.value)
    client = client_of(live)
    for ask in (
        lambda: client.do_get(fl.Ticket(ticket), CALL).read_all(),
        lambda: client.get_flight_info(fl.FlightDescriptor.for_command(ticket), CALL),
    ):
        with pytest.raises(fl.FlightServerError) as over:
            ask()
        line = flight_line(over.value)
        assert said in line and "\n" not in line and "Traceback" not in str(over.value)
    with pytest.raises(pa.ArrowException) as over:  # pyarrow's get_schema knows no kinds of errors
        client.get_schema(fl.FlightDescriptor.for_command(ticket), CALL)
    assert said in flight_line(over.value)


def flight_line(error: BaseException) -> str:
    return str(error).partition(". Detail: ")[0]


@pytest.fixture(scope="module")
def live_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Rows, Live]]:
    store = written(tmp_path_factory.mktemp("served"))
    with serving(store) as (server, live):
        yield server.rows, live


def test_flights_are_listed_with_their_columns(live_store: tuple[Rows, Live]) -> None:
    _, live = live_store
    client = client_of(live)
    paths = [tuple(p.decode() for p in f.descriptor.path) for f in client.list_flights(options=CALL)]
    assert paths == [*((t,) for t in TABLES), *((t, "s") for t in ("sweeps", "trials", "results"))]
    (info, *_) = [f for f in client.list_flights(b"s", CALL) if f.descriptor.path[0] == b"trials"]
    found = client.do_get(info.endpoints[0].ticket, CALL).read_all()
    assert info.schema.equals(found.schema) and found.num_rows == len(ROWS)
    info = client.get_flight_info(fl.FlightDescriptor.for_path("results", "s"), CALL)
    found = client.do_get(info.endpoints[0].ticket, CALL).read_all()
    assert info.total_records == found.num_rows > 0 and info.schema.equals(found.schema)
    for wrong in (b"t", b"\xff", b"a/b"):
        with pytest.raises(fl.FlightServerError):
            list(client.list_flights(wrong, CALL))
    for path in ((), ("trials", "s", "x"), ("no",)):
        with pytest.raises(pa.ArrowException, match="table"):
            client.get_schema(fl.FlightDescriptor.for_path(*path), CALL)


# -- who may ------------------------------------------------------------------------------------------------


def every_question(client: fl.FlightClient, options: fl.FlightCallOptions) -> Iterator[tuple[str, Any]]:
    path, one = fl.FlightDescriptor.for_path("trials"), pa.schema([("a", pa.int64())])

    def put() -> None:
        writer, _ = client.do_put(path, one, options)
        writer.write_table(pa.table({"a": [1]}))
        writer.close()

    def exchange() -> None:
        writer, reader = client.do_exchange(path, options)
        writer.done_writing()
        reader.read_all()

    yield "get", lambda: client.do_get(fl.Ticket(b'{"table": "trials"}'), options).read_all()
    yield "get", lambda: client.get_flight_info(path, options)
    yield "get", lambda: client.get_schema(path, options)
    yield "get", lambda: list(client.list_flights(options=options))
    yield "get", lambda: list(client.list_actions(options))
    yield "put", lambda: list(client.do_action(fl.Action("delete", b""), options))
    yield "put", put
    yield "put", exchange


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"")],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"Bearer wrong")],
        [(b"authorization", f"Bearer {TOKEN}x".encode())],
        [(b"authorization", f"Basic {TOKEN}".encode())],
        [(b"authorization", TOKEN.encode())],
        [(b"authorization", b"Bearer wrong"), (b"authorization", f"Bearer {TOKEN}".encode())],
        [(b"x-token", TOKEN.encode())],
    ],
)
def test_without_the_token_everything_is_refused(
    live_store: tuple[Rows, Live], headers: list[tuple[bytes, bytes]]
) -> None:
    _, live = live_store
    client = client_of(live)
    for _, ask in every_question(client, fl.FlightCallOptions(timeout=30, headers=headers)):
        with pytest.raises(
            (fl.FlightUnauthenticatedError, OSError), match=r"needs the token.*Unauthenticated"
        ):
            ask()
    with pytest.raises(fl.FlightUnauthenticatedError):
        client.authenticate_basic_token("user", TOKEN)
    with pytest.raises(UserError, match="needs the token"):
        fairsweep.connect(live.uri, "another-token-of-the-test")


def test_with_the_token_nothing_can_be_written(live_store: tuple[Rows, Live], tmp_path: Path) -> None:
    rows, live = live_store
    before = rows.store.stamp("s")
    for kind, ask in every_question(client_of(live), CALL):
        if kind == "get":
            ask()
        else:
            with pytest.raises(fl.FlightUnauthorizedError, match="only reads"):
                ask()
    assert rows.store.stamp("s") == before


def test_clients_connect_again_when_the_server_has_been_away(tmp_path: Path) -> None:
    store = written(tmp_path)
    with serving(store) as (server, live):
        uri, port = live.uri, server.port
        other = fairsweep.connect(uri, TOKEN)
        assert other.table("trials").num_rows == len(ROWS)
    again = threading.Timer(0.3, lambda: made.append(flight.started(Rows(store), TOKEN, "127.0.0.1", port)))
    made: list[Any] = []
    again.start()
    assert other.table("trials").num_rows == len(ROWS)
    again.join()
    assert flight.stop(made[0][0])


def test_nobody_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from fairsweep.cluster.service import client

    monkeypatch.setattr(client, "AGAIN_S", (0.01,))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"grpc://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(UserError, match=f"uri={uri}: nobody answers .*is `fairsweep serve` running there"):
        fairsweep.connect(uri, TOKEN)
    with pytest.raises(UserError, match="uri=nowhere: must be what"):
        fairsweep.connect("nowhere", TOKEN)


# -- the token's file -----------------------------------------------------------------------------------------


def test_the_token_is_made_once_in_a_file_for_its_owner_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "home" / "token"
    monkeypatch.setenv(doors.TOKEN_FILE, str(file))
    assert doors.read_token() is None
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(doors.users_token())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1 and len(found) == 8 and len(found[0]) >= 32
    assert file.stat().st_mode & 0o777 == 0o600 and file.parent.stat().st_mode & 0o777 == 0o700
    assert os.listdir(file.parent) == ["token"]
    file.chmod(0o640)
    with pytest.raises(
        UserError, match=r"others on this machine can use the token in it \(mode 0640\); chmod 600"
    ):
        doors.users_token()
    file.chmod(0o600)
    for text in ("", "short", "two words that are long enough\n", "ä" * 30):
        file.write_text(text)
        with pytest.raises(UserError, match="holds no token"):
            doors.users_token()


def test_connect_without_a_token_says_where_it_would_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(doors.TOKEN_FILE, str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"token is missing: .*none does not exist; copy it"):
        fairsweep.connect("grpc://127.0.0.1:1")


# -- the verb -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def verb(store: Path, token_file: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`fairsweep serve` as a process of its own, and its URI."""
    environment = {**os.environ, doors.TOKEN_FILE: str(token_file)}
    process = subprocess.Popen(
        [sys.executable, "-m", "cluster", "serve", "--storage", str(store), *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


PAGE = Path(__file__).parents[2] / "cluster" / "service" / "README.md"


def lines_of_the_page() -> list[str]:
    """What the README shows: for DuckDB, Polars and pyarrow alone."""
    part = PAGE.read_text().partition("## Live answers")[2].partition("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", part, re.DOTALL)


def test_the_verb_serves_what_the_page_shows_and_ends_at_a_signal(tmp_path: Path) -> None:
    """And what the README shows for DuckDB, Polars and pyarrow runs as it stands there."""
    pytest.importorskip("duckdb"), pytest.importorskip("polars")
    home = tmp_path / "home"
    store = written(tmp_path / "store")
    complete = sum(state == "complete" for state, *_ in ROWS)
    trials = set(store.table("results", "s")["trial"].to_pylist())
    with verb(tmp_path / "store", home / ".fairsweep" / "token") as (process, uri):
        assert uri.startswith("grpc://127.0.0.1:")
        listening = [c for c in psutil.Process(process.pid).net_connections() if c.status == "LISTEN"]
        assert listening and all(doors.is_loopback(c.laddr.ip) for c in listening)
        said = [f"[({complete}, 0.4)]", str(len(trials)), str(complete)]
        for lines, answer in zip(lines_of_the_page(), said, strict=True):
            done = subprocess.run(
                [sys.executable, "-c", f"uri = {uri!r}\n{lines}"], capture_output=True, text=True, timeout=120,
                env={**os.environ, "HOME": str(home)},
            )  # fmt: skip
            assert done.stdout.strip() == answer, done.stderr
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0 and time.monotonic() - began < 20
        token = (home / ".fairsweep" / "token").read_text().strip()
        assert token not in out + err + uri and "Traceback" not in err and "warning" not in err


def test_bad_input_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path)
    monkeypatch.setenv(doors.TOKEN_FILE, str(tmp_path / "token"))
    (tmp_path / "no.pem").write_text("nothing")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = str(taken.getsockname()[1])
        pem = str(tmp_path / "no.pem")
        for words, said in (
            (["--port", port], f"--port={port}: is taken; choose another"),
            (["--port", "web"], "--port=web: must be a whole number from 0 to 65535"),
            (["--host", "no such host"], "--host=no such host: is no address or name of this machine"),
            (["--tls-cert", "x.pem"], "--tls-cert=x.pem: needs --tls-key too"),
            (["--tls-cert", "x.pem", "--tls-key", "y.pem"], "--tls-cert=x.pem: cannot be read"),
            (["--tls-cert", pem, "--tls-key", pem], "is no PEM file"),
            (["t"], "t: "),
            (["--storage", str(tmp_path / "none")], "no such folder"),
        ):
            words = words if "--storage" in words else [*words, "--storage", str(tmp_path)]
            assert run_cli(["serve", *words]) == 2, words
            out, err = capsys.readouterr()
            assert said in err and err.count("\n") == 1 and not out
        (tmp_path / "token").write_text("x" * 40)
        (tmp_path / "token").chmod(0o644)
        assert run_cli(["serve", "--storage", str(tmp_path)]) == 2
        assert "chmod 600" in capsys.readouterr().err


def self_signed(folder: Path) -> tuple[str, str]:
    """PEM files of a certificate for this machine, and of its key."""
    x509 = pytest.importorskip("cryptography.x509")
    import ipaddress

    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    began = datetime.now(timezone.utc) - timedelta(days=1)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(began).not_valid_after(began + timedelta(days=3))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    cert, own = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    own.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return str(cert), str(own)


def test_with_a_certificate_the_way_is_encrypted(tmp_path: Path) -> None:
    cert, key = self_signed(tmp_path)
    store = written(tmp_path / "store")
    pair = flight.certificate(cert, key)
    server, uri, _ = flight.started(Rows(store), TOKEN, "127.0.0.1", 0, pair)
    try:
        assert uri.startswith("grpc+tls://127.0.0.1:")
        with fairsweep.connect(uri, TOKEN, tls_ca=cert) as live:
            assert live.table("trials").num_rows == len(ROWS)
        with pytest.raises(UserError, match="tls_ca=none: cannot be read"):
            fairsweep.connect(uri, TOKEN, tls_ca="none")
    finally:
        assert flight.stop(server)


def test_beyond_loopback_it_warns_unless_the_way_is_encrypted(tmp_path: Path) -> None:
    cert, key = self_signed(tmp_path)
    written(tmp_path / "store")
    for words, warned in (((), True), (("--tls-cert", cert, "--tls-key", key), False)):
        with verb(tmp_path / "store", tmp_path / "token", "--host", "0.0.0.0", *words) as (process, uri):
            assert uri.startswith("grpc+tls://" if words else "grpc://") and "0.0.0.0" not in uri
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=60)
            assert process.returncode == 0 and ("other machines reach it, unencrypted" in err) == warned


# -- much of it -------------------------------------------------------------------------------------------------


def storm(live: Live, good: int, bad: int, pid: int, seed: int = 0) -> list[int]:
    """So many good and bad requests, in turns; resident bytes of the process at twenty moments."""
    random_of, client, memory = random.Random(seed), client_of(live), []
    asks = [
        tickets.ask("trials", "s").ticket(),
        tickets.ask("results", "s", ["step"], [("step", ">", 1)]).ticket(),
    ]
    asks += [tickets.ask("sweeps").ticket(), tickets.ask("claims").ticket()]
    operators = [*map(str.encode, OPERATORS), b"~"]
    wrong = fl.FlightCallOptions(timeout=60, headers=[(b"authorization", b"Bearer wrong")])
    total, every = good + bad, max(1, (good + bad) // 20)
    for k in range(total):
        if k * bad // total < (k + 1) * bad // total:
            kind = random_of.randrange(4)
            ticket = [
                random_of.randbytes(random_of.randrange(200)),
                json.dumps({"table": f"t{random_of.random()}"}).encode(),
                b'{"table": "trials", "filter": [["value", "%b", {}]]}' % random_of.choice(operators),
                asks[0],
            ][kind]  # fmt: skip
            with pytest.raises((fl.FlightServerError, fl.FlightUnauthenticatedError)):
                client.do_get(fl.Ticket(ticket), wrong if kind == 3 else CALL).read_all()
        else:
            client.do_get(fl.Ticket(asks[k % len(asks)]), CALL).read_all()
        if k % every == every - 1:
            memory.append(psutil.Process(pid).memory_info().rss)
    return memory


def test_a_storm_of_requests_good_and_bad_leaves_it_as_it_was(live_store: tuple[Rows, Live]) -> None:
    _, live = live_store
    storm(live, 300, 60, os.getpid())
    assert live.table("trials").num_rows == len(ROWS)


@pytest.mark.slow
def test_a_hundred_thousand_requests_and_ten_thousand_malformed_ones(tmp_path: Path) -> None:
    """No crash, and memory that stays flat; prints what it took."""
    written(tmp_path / "store")
    token_file = tmp_path / "token"
    token_file.write_text(f"{TOKEN}\n")
    token_file.chmod(0o600)
    with verb(tmp_path / "store", token_file) as (process, uri):
        live = fairsweep.connect(uri, TOKEN)
        began, cpu = time.monotonic(), psutil.Process(process.pid).cpu_times().user
        memory = storm(live, 100_000, 10_000, process.pid)
        took = time.monotonic() - began
        used = psutil.Process(process.pid).cpu_times().user - cpu
        threads = psutil.Process(process.pid).num_threads()
        mib = [round(m / 2**20, 1) for m in memory]
        print(
            f"\n110,000 requests in {took:.0f} s ({110_000 / took:.0f} a second, {used:.0f} s of the server's CPU);"
            f" resident MiB {mib}; {threads} threads"
        )
        assert process.poll() is None and live.table("trials").num_rows == len(ROWS)
        assert memory[-1] - memory[4] < 8 * 2**20, mib
