"""How several sweeps share a cluster: each driver says what it has and wants, and works out what part is its own.

Ray gives whoever asked first everything, and takes nothing back. Here each driver keeps an entry in the cluster's own
key-value store (the GCS), reads those of the others once a second, and does the same sum as they do (`allot`). It
holds as many places as are its part, and gives others up where a trial has ended; no trial is cut off for it. There
is no process that could be lost: an entry that does not change any more is that of a driver that has died, and one
driver alone is bounded by nothing.

What there is to share is what the sweeps hold and what is free, so that other users of the cluster, and nodes whose
rest fits no trial, are counted as they are. Trials of different sizes are compared by the resource of which they
take most (dominant resource fairness).
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from fairsweep.cluster.engine.nodes import fits

BEAT_S = 1.0  # between two entries
DEAD_S = 15.0  # without a change of its entry, after which a driver is taken for dead
OLD_S = 60.0  # of the clock, after which an entry was left by one that has died long ago
WINDOW_S = 10.0  # over which the most counts: places that begin or end are for a moment neither held nor free
TURN_S = 300.0  # of a place, after which what cannot be divided goes to another sweep of the same weight

Amounts = Mapping[str, float]


@dataclass(frozen=True)
class Claim:
    """The entry of a sweep.

    need: what one place takes; each: one of its trainers, which may be on several nodes; wants: how many places it can
    use now; held: that it has. served: what it has had beside others, in seconds of the whole cluster, divided by its
    weight. Those that come later begin with the least that another has had, and nobody saves up more than two turns of
    a place by not using its part.
    """

    id: str
    since: float
    need: Amounts
    weight: float = 1.0
    priority: int = 0
    held: int = 0
    wants: int = 0
    served: float = 0.0
    beat: int = 0
    at: float = 0.0  # by its clock
    each: Amounts = field(default_factory=dict)  # empty: its places are on one node each

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Claim | None:
        """None for what cannot be read; what other versions say beside is left out."""
        try:
            said = json.loads(text)
            return cls(**{name: said[name] for name in cls.__dataclass_fields__ if name in said})
        except (ValueError, TypeError):
            return None


def allot(pool: Amounts, claims: Sequence[Claim]) -> dict[str, int]:
    """How many places of `pool` each claim gets.

    A higher priority gets what it can use first. Within one, every sweep gets a place before one gets a second, and
    then each further place goes to the sweep that has least of its part (as Webster's method divides seats), until
    nothing that is wanted fits. For each turn (`TURN_S` seconds of a place) that a sweep has had more than another, a
    place counts as if it had it already: so what cannot be divided goes round.
    """
    left, given = dict(pool), {claim.id: 0 for claim in claims}
    for level in sorted({claim.priority for claim in claims}, reverse=True):
        peers = [claim for claim in claims if claim.priority == level and claim.wants]
        least = min((claim.served for claim in peers), default=0.0)
        while True:
            able = [c for c in peers if given[c.id] < c.wants and fits(left, c.need)]
            if not able:
                break
            best = min(able, key=lambda c: _order(c, given[c.id], pool, least))
            given[best.id] += 1
            for name, amount in best.need.items():
                left[name] = left.get(name, 0.0) - amount
    return given


def _order(claim: Claim, has: int, pool: Amounts, least: float) -> tuple[Any, ...]:
    part = _part(claim, pool)
    turns = int((claim.served - least) / (TURN_S * part) + 1e-9) if part else 0
    return has > 0, round((has + 0.5 + turns) * part, 9), claim.since, claim.id


def _part(claim: Claim, pool: Amounts) -> float:
    """What one place takes of the pool, for the weight of its sweep."""
    most = max((n / pool[name] for name, n in claim.need.items() if n and pool.get(name)), default=0.0)
    return most / claim.weight


def pool_of(claims: Sequence[Claim], free: Sequence[Amounts]) -> dict[str, float]:
    """What there is to share: what the sweeps hold, and what is free on nodes on which one of them could use it."""
    found: dict[str, float] = {}
    usable = [node for node in free if any(fits(node, claim.each or claim.need) for claim in claims)]
    for have in [{n: amount * c.held for n, amount in c.need.items()} for c in claims] + list(usable):
        for name in ("CPU", "GPU"):
            found[name] = found.get(name, 0.0) + have.get(name, 0.0)
    return found


class Board(Protocol):
    """Where the entries are."""

    def put(self, key: str, text: str) -> None: ...

    def entries(self) -> dict[str, str]: ...

    def drop(self, key: str) -> None: ...

    def free(self) -> list[Amounts]:
        """What is free on each node."""
        ...


class RayBoard:
    """The key-value store of the cluster that this process is connected to."""

    PREFIX, NAMESPACE = b"share:", b"fairsweep"

    def put(self, key: str, text: str) -> None:
        from ray.experimental import internal_kv

        internal_kv._internal_kv_put(
            self.PREFIX + key.encode(), text.encode(), True, namespace=self.NAMESPACE
        )

    def entries(self) -> dict[str, str]:
        from ray.experimental import internal_kv

        found = {}
        for key in internal_kv._internal_kv_list(self.PREFIX, namespace=self.NAMESPACE):
            text = internal_kv._internal_kv_get(key, namespace=self.NAMESPACE)
            if text:
                found[key[len(self.PREFIX) :].decode()] = text.decode()
        return found

    def drop(self, key: str) -> None:
        from ray.experimental import internal_kv

        internal_kv._internal_kv_del(self.PREFIX + key.encode(), namespace=self.NAMESPACE)

    def free(self) -> list[Amounts]:
        from ray._private.state import available_resources_per_node

        return list(available_resources_per_node().values())


class Share:
    """The part of this driver. `most` is how many places it may hold now; None as long as there is no other sweep."""

    def __init__(
        self,
        board: Board,
        need: Amounts,
        weight: float = 1.0,
        priority: int = 0,
        *,
        each: Amounts | None = None,
        now: Callable[[], float] = time.monotonic,
        on_others: Callable[[], None] = lambda: None,
    ) -> None:
        """each: see `Claim`. on_others: called once, when there is another sweep."""
        self.board, self._now, self._on_others = board, now, on_others
        self.most: int | None = None
        self._mine = Claim(uuid.uuid4().hex, time.time(), dict(need), weight, priority, each=dict(each or {}))
        self._told = 0, 0  # held, wants
        self._seen: dict[str, tuple[str, float]] = {}  # an entry, and since when it is the same
        self._pools: deque[tuple[float, dict[str, float]]] = deque()
        self._last: float | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fairsweep-share", daemon=True)

    def tell(self, held: int, wants: int) -> None:
        """How many places this driver has, and how many it could use now."""
        self._told = held, max(held, wants)

    def start(self) -> None:
        """Enters this driver, and goes on in a thread of its own: the cluster may be out of reach for a while."""
        with suppress(Exception):
            self.beat()
        self._thread.start()

    def stop(self) -> None:
        """Takes the entry away. Waits for a moment only."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(BEAT_S)

    def _run(self) -> None:
        while not self._over.wait(BEAT_S):
            with suppress(Exception):  # not reached: what was known last goes on
                self.beat()
        with suppress(Exception):
            self.board.drop(self._mine.id)

    def beat(self) -> None:
        """Says what this driver has, and finds out what its part is."""
        now, (held, wants) = self._now(), self._told
        others = self._others(now)
        mine = replace(self._mine, held=held, wants=wants, beat=self._mine.beat + 1, at=time.time())
        if not others:
            self._mine, self.most = mine, None
            self._pools.clear()
            self.board.put(mine.id, mine.to_json())
            return
        pool = self._pool(now, [mine, *others])
        part = _part(mine, pool)
        least = min(claim.served for claim in others) - (0.0 if mine.beat == 1 else 2 * TURN_S * part)
        seconds = 0.0 if self._last is None else now - self._last
        self._last = now
        self._mine = mine = replace(mine, served=max(least, mine.served + seconds * held * part))
        self.board.put(mine.id, mine.to_json())
        self.most = allot(pool, [mine, *others])[mine.id]
        on_others, self._on_others = self._on_others, lambda: None
        on_others()

    def _others(self, now: float) -> list[Claim]:
        """Those of other drivers that live. What a dead one has left is dropped."""
        found = []
        for key, text in self.board.entries().items():
            if key == self._mine.id:
                continue
            known, claim = self._seen.get(key), Claim.from_json(text)
            if known is None:
                old = claim is None or time.time() - claim.at > OLD_S
                self._seen[key] = text, now - DEAD_S if old else now
            elif known[0] != text:
                self._seen[key] = text, now
            silent = now - self._seen[key][1]
            if silent < DEAD_S and claim is not None:
                found.append(claim)
            elif silent > OLD_S:
                self.board.drop(key)
        return found

    def _pool(self, now: float, claims: Sequence[Claim]) -> dict[str, float]:
        pool = pool_of(claims, self.board.free())
        self._pools.append((now, pool))
        while now - self._pools[0][0] > WINDOW_S:
            self._pools.popleft()
        return {name: max(each[name] for _, each in self._pools) for name in pool}
