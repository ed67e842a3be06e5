"""The sweeps of a store, once or as they change: ls."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from fairsweep.cluster import DEFAULT_STORAGE
from fairsweep.cluster.commands.tables import existing
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.masking import masked_uri

COLUMNS = ("sweep", "paper", "data", "state", "trials", "trials_budget", "seeds", "objective", "created")
LEAST_S = 0.2  # between two looks


def register(add: Any) -> None:
    """Adds the verbs of this file. add: see `cluster.cli`."""
    p = add("ls", _ls, "the sweeps of a store; a comparison is one row")
    p.add_argument("sweeps", nargs="*", metavar="SWEEP", help="only these sweeps and comparisons")
    p.add_argument("--all", action="store_true", help="each sweep of a comparison, too")
    p.add_argument("--storage", default=DEFAULT_STORAGE, help="folder or URI of the store")
    p.add_argument(
        "--tag",
        action="append",
        default=[],
        help="only sweeps with this tag; may be repeated: with all of them",
    )
    p.add_argument(
        "--watch",
        nargs="?",
        const="2",
        metavar="SECONDS",
        help="again every SECONDS (2): in place on a terminal, else a line for each change; Ctrl-C ends it",
    )


def _ls(args: argparse.Namespace, rest: list[str]) -> int:
    every = None if args.watch is None else _seconds(args.watch)
    listing = Listing(existing(args.storage), args.tag, args.all, args.sweeps)
    listing.check()
    if every is not None:
        return watch(listing, every, args.json)
    from fairsweep.analysis import report

    rows = listing.rows()
    if args.json:
        tagged = any(row.get("tags") for row in rows)
        report.print_json([_as_json(row, tagged) for row in rows])
    elif not rows:
        print(listing.nothing)
    else:
        _print(rows)
    for row in rows:
        if row.get("damage"):
            print(f"note: {row['sweep']}: {row['damage']}", file=sys.stderr)
    return 0


def _seconds(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not LEAST_S <= found < math.inf:
        raise UserError(f"--watch={text}: must be seconds, at least {LEAST_S:g}")
    return found


def _as_json(row: dict[str, Any], tagged: bool = True) -> dict[str, Any]:
    tags = ("tags",) if tagged else ()
    return {column: row.get(column) for column in (*COLUMNS, *tags, "damage")}


def _print(rows: list[dict[str, Any]], on: Any = None) -> None:
    from fairsweep.analysis import report

    shown = [
        {**row, "created": row["created"].strftime("%Y-%m-%d %H:%M")} if row.get("created") else row
        for row in rows
    ]
    tags = ("tags",) if any(row.get("tags") for row in rows) else ()
    report.show_rows(shown, [*COLUMNS, *tags], on=on)


class Listing:
    """The rows of `ls`. A sweep is read again only when a file of it has changed.

    tags: only sweeps that have all of them. whole: each sweep of a comparison, too. only: these, if any are named.
    """

    def __init__(self, store: Any, tags: list[str], whole: bool, only: Sequence[str] = ()) -> None:
        self.store, self.tags, self.whole, self.only = store, set(tags), whole, only
        self._known: dict[str, tuple[str, dict[str, Any]]] = {}

    @property
    def nothing(self) -> str:
        tagged = f"tagged {' '.join(sorted(self.tags))}" if self.tags else "yet"
        return f"{masked_uri(self.store.uri)} has no sweeps {tagged}"

    def rows(self) -> list[dict[str, Any]]:
        """As they are now, the newest last."""
        from fairsweep.analysis.store import UnknownSweep

        found = {}
        for name in self.store.names():
            if self.only and not any(name == one or name.startswith(f"{one}.") for one in self.only):
                continue
            stamp = self.store.stamp(name)
            kept = self._known.get(name)
            try:
                found[name] = kept if kept and kept[0] == stamp else (stamp, self._read(name))
            except UnknownSweep:  # deleted since it was listed
                continue
        self._known = found
        rows = [self._as_it_is(row) for _, row in found.values() if self._is_wanted(row)]
        rows = sorted(rows, key=lambda row: (row["at"], row["sweep"]))
        return rows if self.whole else together(rows, self.store)

    def check(self) -> None:
        """UnknownSweep for a name that is asked for and that no sweep and no comparison has."""
        if self.only:
            self.rows()
        for name in self.only:
            if not any(name in _names(row) for _, row in self._known.values()):
                raise self.store.unknown(name)

    def _is_wanted(self, row: dict[str, Any]) -> bool:
        return self.tags <= set(row["tagged"]) and (not self.only or bool(_names(row) & set(self.only)))

    def _as_it_is(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row whose driver could not say any more that it ended, says so."""
        gone = row.get("state") == "running" and self.store.written(row["sweep"]) is False
        return {**row, "state": "driver gone"} if gone else row

    def _read(self, name: str) -> dict[str, Any]:
        from fairsweep.analysis.store import StoreError, UnknownSweep

        row: dict[str, Any] = {"sweep": name, "tagged": self.store.tags(name) if self.tags else (), "at": 0.0}
        try:
            trials = self.store.table("trials", name, columns=["trial", "state"])
            self.store.table("results", name, columns=["seq"])  # whether they can be read
            about = self.store.table("sweeps", name).to_pylist()[0]
        except UnknownSweep:
            raise
        except StoreError as error:
            return {**row, "state": "damaged", "damage": str(error)}
        states = trials["state"].to_pylist()
        at = about["created"].timestamp() if about.get("created") else 0.0
        return {**row, **about, "at": at, "trials": len(states), "states": states}


def _names(row: dict[str, Any]) -> set[str]:
    """Of a sweep, and of the comparison that it is of."""
    return {row["sweep"], json.loads(row.get("comparison") or "{}").get("run", row["sweep"])}


def together(rows: list[dict[str, Any]], store: Any) -> list[dict[str, Any]]:
    """The rows of sweeps, with those of a comparison as one: finished once all its repeats have a row."""
    from fairsweep.analysis import upkeep

    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        about = json.loads(row.get("comparison") or "{}")
        if not about:
            found[row["sweep"]] = row
            continue
        spec = about["spec"]
        methods, sets = [m["label"] for m in spec["methods"]], [d["label"] for d in spec["data"]]
        whole = found.setdefault(
            about["run"],
            {**row, "sweep": about["run"], "paper": ", ".join(methods), "data": ", ".join(sets), "trials": 0,
             "states": [], "seeds": 0, "state": "", "trials_budget": None, "comparison": None, "objective": spec["on"]},
        )  # fmt: skip
        whole["trials"] += row["trials"]
        whole["states"] = [*whole["states"], *row["states"]]
        whole["seeds"] = max(whole["seeds"], spec["seeds"])
        whole["created"] = min(whole["created"], row["created"])
        whole["expected"] = len(methods) * len(sets) * whole["seeds"]
        if row["state"] == "running":
            whole["state"] = "running"
    for run, whole in found.items():
        if "expected" in whole:
            done = store.derived("comparisons", run).num_rows >= whole["expected"]
            running = whole["state"] or upkeep.held(
                store, "comparisons", run
            )  # also between two of its sweeps
            whole["state"] = "finished" if done else "running" if running else "interrupted"
    return list(found.values())


# -- as they change -----------------------------------------------------------------------------------


def watch(listing: Listing, every: float, as_json: bool, wait: Callable[[float], None] = time.sleep) -> int:
    """Shows the rows again and again until Ctrl-C: in place on a terminal, else a line for each that has changed.

    as_json: each such line is a JSON object. wait: between two looks.
    """
    from fairsweep.analysis import report

    console = report.console()
    try:
        if console.is_terminal and not as_json:
            _in_place(listing, every, console, wait)
        else:
            _line_by_line(listing, every, as_json, wait)
    except KeyboardInterrupt:
        pass
    return 0


def _in_place(listing: Listing, every: float, console: Any, wait: Callable[[float], None]) -> None:
    from datetime import datetime

    from rich.live import Live
    from rich.text import Text

    from fairsweep.analysis import report

    with Live(console=console, auto_refresh=False, screen=False, vertical_overflow="crop") as live:
        while True:
            rows = listing.rows()
            drawn = report.console(width=console.width, force_terminal=False)
            room = max(1, console.height - 6)
            with drawn.capture() as text:
                if rows:
                    _print(rows[-room:], drawn)
                else:
                    drawn.print(listing.nothing)
            above = f" ({len(rows) - room} older ones above)" if len(rows) > room else ""
            foot = f"{datetime.now():%H:%M:%S}, every {every:g} s; Ctrl-C ends it{above}"
            live.update(Text(f"{text.get().rstrip()}\n{foot}"), refresh=True)
            wait(every)


def _line_by_line(listing: Listing, every: float, as_json: bool, wait: Callable[[float], None]) -> None:
    from fairsweep.analysis import report

    known: dict[str, dict[str, Any]] = {}
    first = True
    while True:
        rows = {row["sweep"]: row for row in listing.rows()}
        for name, row in rows.items():
            if _said(row) != _said(known.get(name)):
                line = json.dumps(report.jsonable(_as_json(row))) if as_json else _said(row)
                print(line, flush=True)
        for name in known:
            if name not in rows:
                gone = {"sweep": name, "state": "deleted"}
                print(json.dumps(gone) if as_json else f"{name}: deleted", flush=True)
        if first and not rows and not as_json:
            print(listing.nothing, flush=True)
        known, first = rows, False
        wait(every)


def _said(row: dict[str, Any] | None) -> str:
    """A row in a line; "" for none."""
    if row is None:
        return ""
    if row.get("damage"):
        return f"{row['sweep']}: damaged: {row['damage']}"
    budget, states = row.get("trials_budget"), row.get("states")
    total = f" of {budget * (row.get('seeds') or 1)}" if budget else ""
    counts = ""
    if states:
        order = ("running", "complete", "pruned", "paused", "failed", "interrupted", "pending")
        counts = ": " + ", ".join(f"{states.count(s)} {s}" for s in order if s in states)
    tags = f" [{row['tags']}]" if row.get("tags") else ""
    return f"{row['sweep']}: {row['state']}, {row['trials']}{total} trials{counts}{tags}"
