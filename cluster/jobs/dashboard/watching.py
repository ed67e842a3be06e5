"""What a dashboard knows of a store: read when a file of it has changed and somebody looks, and never too often.

Nothing here writes, and nothing waits for a writer. What takes long is read the more seldom.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fairsweep.analysis import schema
from fairsweep.analysis.comparing import answering
from fairsweep.analysis.plots.moments import best_so_far
from fairsweep.analysis.plots.parts import count
from fairsweep.analysis.report import number
from fairsweep.analysis.store import OF_A_SWEEP, Store, StoreError
from fairsweep.analysis.trade_offs import front
from fairsweep.cluster.errors import UserError

RUNS = ("comparisons", "claims")  # tables whose runs have pages of their own
OVER = ("complete", "pruned", "failed")
LEAST_S, SHARE = 2.0, 5.0  # between two readings of one thing: seconds, and times what the last one took
KEPT = 40  # pages
NICE = 10
NONE_YET = "{}: no repeat has ended yet; this page begins with the first"

T = TypeVar("T")


@dataclass
class Kept:
    """What was read last, of which state of the files, and what it cost in seconds."""

    stamp: str = ""
    version: str = ""
    value: Any = None
    made: float = 0.0
    cost: float = 0.0
    task: asyncio.Task[None] | None = None

    def due(self, stamp: str) -> bool:
        """Whether it is to be read again."""
        if self.task is not None and not self.task.done():
            return False
        waited = time.monotonic() - self.made
        return not self.version or (stamp != self.stamp and waited >= max(LEAST_S, SHARE * self.cost))


@dataclass
class Watch:
    """A store as one dashboard sees it. make_page: name -> the page of a sweep or run; UserError, StoreError."""

    store: Store
    make_page: Callable[[str], str]
    lines: dict[tuple[str, str], Kept] = field(default_factory=dict)
    pages: OrderedDict[str, Kept] = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "dashboard", initializer=_politely)

    def close(self) -> None:
        """Ends the thread that reads."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    # -- what there is --------------------------------------------------------------------------------

    def sweeps(self) -> list[str]:
        """Names of sweeps, without reading one."""
        return self.store.names()

    def runs(self) -> list[tuple[str, str]]:
        """Comparisons and runs of claims: table, name."""
        return [(t, n) for t in RUNS for n in self.store.folder.names(t) if schema.is_name(n)]

    def knows(self, name: str) -> bool:
        """Whether there is a sweep or run of this name."""
        return schema.is_name(name) and (
            self.store.has(name)
            or any(self.store.folder.names(f"{table}/{name}") for table in RUNS)
            or self.begun(name)
        )

    def begun(self, name: str) -> bool:
        """Whether there are sweeps of a comparison of this name, which has no rows of its own before a search ends."""
        return any(sweep.startswith(f"{name}.") for sweep in self.sweeps())

    def stamp(self, name: str, tables: tuple[str, ...] = (*OF_A_SWEEP, *RUNS)) -> str:
        """Another text whenever a file of the sweep or run has changed."""
        return self.store.stamp(name, tables)

    # -- reading --------------------------------------------------------------------------------------

    async def page(self, name: str, wait: bool = True) -> Kept:
        """The page of a sweep or run. Reads it again if that is due; waits for that only if there is none yet.

        wait: False: does not even then; its version is empty.
        """
        kept = self.pages.setdefault(name, Kept())
        self.pages.move_to_end(name)
        while len(self.pages) > KEPT:
            self.pages.popitem(last=False)
        await self._refresh(kept, name, (*OF_A_SWEEP, *RUNS), self._page_of, wait)
        return kept

    async def index(self) -> list[dict[str, Any]]:
        """A line of each comparison, run of claims and sweep, the newest first."""
        names = await self._elsewhere(lambda: [*self.runs(), *(("", n) for n in self.sweeps())])
        found = []
        for table, name in names:
            kept = self.lines.setdefault((table, name), Kept())
            if table:
                current = await self._refresh(kept, name, (table,), self._run_of(table), True)
            else:
                current = await self._refresh(kept, name, OF_A_SWEEP[:3], self._line_of, True)
            if kept.value is not None:  # a sweep that has just ended may not have been read yet
                gone = current and kept.value.get("state") == "running" and self.store.written(name) is False
                found.append({**kept.value, "state": "driver gone"} if gone else kept.value)
        for left in set(self.lines) - set(names):
            del self.lines[left]
        return sorted(together(found), key=lambda line: line["created"], reverse=True)

    async def _refresh(
        self, kept: Kept, name: str, tables: tuple[str, ...], read: Callable[[str], Any], wait: bool
    ) -> bool:
        """Reads it again if that is due; whether what is kept is of the files as they are."""
        stamp = await self._elsewhere(lambda: self.stamp(name, tables))
        if kept.due(stamp):
            kept.task = asyncio.create_task(self._read(kept, name, stamp, read))
        if not kept.version and wait and kept.task is not None:
            await asyncio.shield(kept.task)
        return kept.stamp == stamp

    @staticmethod
    async def _elsewhere(look: Callable[[], T]) -> T:
        """What `look` finds, looked up in a thread: files may be slow."""
        return await asyncio.get_running_loop().run_in_executor(None, look)

    async def known(self, name: str) -> bool:
        """`knows`, without waiting for files in the loop."""
        return await self._elsewhere(lambda: self.knows(name))

    async def _read(self, kept: Kept, name: str, stamp: str, read: Callable[[str], Any]) -> None:
        began = time.monotonic()
        value = await asyncio.get_running_loop().run_in_executor(self._thread, read, name)
        kept.value, kept.stamp = value, stamp
        kept.made = time.monotonic()
        kept.cost = kept.made - began
        kept.version = hashlib.sha256(repr(value).encode(errors="replace")).hexdigest()[:16]

    def _page_of(self, name: str) -> tuple[str, str]:
        """The page and "", or "" and why there is none."""
        try:
            return self.make_page(name), ""
        except (UserError, StoreError) as error:
            return "", NONE_YET.format(name) if self.begun(name) else str(error)
        except Exception as error:  # one page that cannot be made leaves the others
            return "", f"{name}: its page cannot be made ({type(error).__name__}: {error})"

    def _line_of(self, name: str) -> dict[str, Any] | None:
        try:
            row = self.store.table("sweeps", name).to_pylist()[0]
            trials = self.store.table("trials", name)
        except StoreError as error:
            if not self.store.has(name):
                return None  # deleted or renamed meanwhile
            return _damaged(name, "sweep", error)
        states = trials["state"].to_pylist()
        budget, about = row.get("trials_budget"), json_of(row.get("comparison"))
        return {
            "name": name,
            "kind": "sweep",
            "of": about.get("run", ""),
            "searches": _searches(about),
            "what": row.get("paper"),
            "data": row.get("data"),
            "state": row.get("state"),
            "done": sum(s in OVER for s in states),
            "begun": len(states),
            "total": None if budget is None else budget * (row.get("seeds") or 1),
            "best": _best(row, trials),
            "created": _iso(row.get("created")),
        }

    def _run_of(self, table: str) -> Callable[[str], dict[str, Any] | None]:
        def read(name: str) -> dict[str, Any] | None:
            try:
                rows = self.store.derived(table, name).to_pylist()
            except StoreError as error:
                return _damaged(name, table, error)
            if not rows:
                return None
            line = {
                "name": name,
                "kind": table,
                "done": len(rows),
                "created": _iso(max(r["judged"] for r in rows)),
            }
            if table == "comparisons":
                methods, sets = ({r[c] for r in rows} for c in ("method", "data"))
                return {
                    **line,
                    "what": f"{count(len(methods), 'method')} on {count(len(sets), 'data set')}",
                    "best": _sentence(rows),
                }
            held = sum(r["direction_verdict"] == "holds" for r in rows)
            return {
                **line,
                "what": count(len(rows), "claim"),
                "best": f"{held} of {len(rows)} hold in their direction",
            }

        return read


def together(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`lines`, with what the sweeps of a comparison say of it in its own; one that has no rows yet gets one."""
    runs = {line["name"]: dict(line) for line in lines if line["kind"] == "comparisons"}
    for part in (line for line in lines if line.get("of")):
        first = {"name": part["of"], "kind": "comparisons", "done": 0, "what": "", "created": part["created"]}
        run = runs.setdefault(part["of"], {**first, "best": "no repeat has ended yet"})
        run["total"] = max(run.get("total") or 0, part["searches"])
        if part["state"] in ("running", "driver gone") and run.get("state") != "running":
            run["state"] = part["state"]
    for run in runs.values():
        if run.get("total") and "state" not in run:
            run["state"] = "finished" if run["done"] >= run["total"] else "interrupted"
    return [*runs.values(), *(line for line in lines if line["kind"] != "comparisons")]


def _searches(about: dict[str, Any]) -> int:
    """How many searches the comparison is of that a sweep belongs to."""
    spec = about.get("spec") or {}
    return len(spec.get("methods", ())) * len(spec.get("data", ())) * int(spec.get("seeds") or 0)


def _damaged(name: str, kind: str, error: StoreError) -> dict[str, Any]:
    return {"name": name, "kind": kind, "state": "damaged", "problem": str(error), "created": ""}


def _sentence(rows: list[dict[str, Any]]) -> str:
    try:
        return answering.answer(rows).sentence
    except ValueError as error:
        return str(error)


def _best(row: dict[str, Any], trials: Any) -> str:
    """The best so far in a few words."""
    modes = json_of(row.get("objectives"))
    if modes:
        points = front(trials, modes, json_of(row.get("constraints"))).best
        return f"front of {len(points)}" if points else ""
    if row.get("mode") not in ("min", "max"):
        return ""
    moments, _, _ = best_so_far(trials, row["mode"])
    return f"{row['objective']} {number(moments[-1].mean)}" if moments else ""


def json_of(text: str | None) -> dict[str, Any]:
    """A column that holds JSON, {} where it is empty."""
    found = json.loads(text) if text else {}
    return found if isinstance(found, dict) else {}


def _iso(moment: Any) -> str:
    return "" if moment is None else moment.isoformat(timespec="seconds")


def _politely() -> None:
    """Leaves the processors to those who train."""
    with contextlib.suppress(AttributeError, OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
