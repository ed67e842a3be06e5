"""Who was where and when: tracks of moving agents on a common grid of frames, for trajectory forecasting."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from fairsweep.trainables.base import DataError
from fairsweep.trainables.datasets import delimited, times
from fairsweep.trainables.datasets.cache import cached_arrays
from fairsweep.trainables.datasets.fetch import wheel_member
from fairsweep.trainables.datasets.own import splits, tables

LAYOUT = (
    "tracks.csv or tracks.parquet with the columns agent, x, y and time or frame, perhaps recording and split"
)
GAP = 3  # steps of the grid between two fixes that are filled in; after more an agent is a new one
RECORDINGS = 10  # from so many on they are drawn to the parts; of fewer each is cut in order of time


@dataclass(frozen=True, eq=False)
class Tracks:
    """k tracks. points: of each its positions (frames, 2), float64, one a frame; first: (k,) its first frame;
    recording: (k,) which recording it is of; agents of one recording see each other. step: seconds between frames.

    split: recordings of each part; None: they are drawn, the `shares` to validate and to test, or each recording is cut
    in order of time (`drawn` says which). dropped: what the file holds and this does not.
    """

    name: str
    points: tuple[np.ndarray, ...]
    first: np.ndarray
    recording: np.ndarray
    step: float
    split: Mapping[str, np.ndarray] | None = None
    shares: tuple[float, float] = (0.1, 0.2)
    dropped: Mapping[str, int] = field(default_factory=dict)

    @property
    def recordings(self) -> int:
        """How many there are."""
        return int(self.recording.max()) + 1

    @property
    def in_time(self) -> bool:
        """Whether each recording is cut in order of time."""
        return self.split is None and self.recordings < RECORDINGS

    @property
    def last(self) -> np.ndarray:
        """The frame behind the last one of each track, (k,)."""
        return self.first + np.array([len(points) for points in self.points], np.int64)


def on_grid(
    recording: np.ndarray, agent: np.ndarray, when: np.ndarray, places: np.ndarray, step: float
) -> tuple[tuple[np.ndarray, ...], np.ndarray, np.ndarray, int]:
    """Fixes (n,) of agents at times `when` in seconds, at `places` (n, 2), as tracks on a grid of `step` seconds.

    Between fixes at most GAP steps apart positions are interpolated; a longer gap ends a track. The grid of a recording
    begins at its first time. Returns points, first frames, recordings, and how many fixes are in tracks of one frame,
    which are left out. ValueError for two fixes of one agent at one time: the indices of both.
    """
    order = np.lexsort((when, agent, recording))
    same = (np.diff(recording[order]) == 0) & (np.diff(agent[order]) == 0)
    gap = np.diff(when[order])
    if (same & (gap == 0)).any():
        at = int(np.flatnonzero(same & (gap == 0))[0])
        raise ValueError(int(order[at]), int(order[at + 1]))
    begin = np.full(int(recording.max()) + 1, np.inf)
    np.minimum.at(begin, recording, when)
    cuts = np.flatnonzero(~same | (gap > (GAP + 1e-6) * step)) + 1
    points: list[np.ndarray] = []
    first: list[int] = []
    of: list[int] = []
    lost = 0
    for rows in np.split(order, cuts):
        r = int(recording[rows[0]])
        at = (when[rows] - begin[r]) / step
        frames = np.arange(np.ceil(at[0] - 1e-6), np.floor(at[-1] + 1e-6) + 1)
        if len(frames) < 2:
            lost += len(rows)
            continue
        points.append(np.stack([np.interp(frames, at, axis) for axis in places[rows].T], 1))
        first.append(int(frames[0]))
        of.append(r)
    return tuple(points), np.array(first, np.int64), np.array(of, np.int64), lost


# ---- out of a package ----


def aircraft(data_dir: Path | None = None) -> Tracks:
    """Aircraft in the upper airspace over Switzerland, 17 hours of 1 August 2018, a fix every 10 s, some 20 at a time.

    Metres east and north on a plane that touches the Earth in the middle of the fixes. An aircraft is an address with a
    call sign. Source: the OpenSky network, as shipped by PyPI traffic 2.13 (MIT). One recording.
    """
    checksum = "ff5be108224b2a96892a697faf2a7492bf530e64d145d9675eb927c4ed97d4c3"

    def convert() -> dict[str, np.ndarray]:
        member = "traffic/data/samples/collections/switzerland.json.gz"
        fixes = json.loads(gzip.decompress(wheel_member("aircraft", "traffic==2.13", member, checksum)))
        names = np.array([f"{fix['icao24']} {fix['callsign']}" for fix in fixes])
        north, east = (np.radians([fix[axis] for fix in fixes]) for axis in ("latitude", "longitude"))
        east = (east - east.mean()) * np.cos(north.mean())
        return {
            "agent": np.unique(names, return_inverse=True)[1],
            "when": np.array([fix["timestamp"] for fix in fixes]) / 1000,
            "places": 6_371_000 * np.stack([east, north - north.mean()], 1),
        }

    found = cached_arrays(f"aircraft-1-{checksum[:16]}", convert)
    recording = np.zeros(len(found["agent"]), np.int64)
    points, first, of, _ = on_grid(recording, found["agent"], found["when"], found["places"], 10.0)
    return Tracks("aircraft", points, first, of, 10.0)


# ---- made up ----


def synthetic_platoons(
    data_dir: Path | None = None, scenes: int = 100, frames: int = 60, seed: int = 0
) -> Tracks:
    """Made up: `scenes` of eight vehicles on three lanes (y = 0, 3.5, 7 m), two groups of four; always the same.

    The groups begin within 8 m of x = 0 and x = 25, with a speed U(6, 14) m/s and a constant acceleration U(-.8, .8),
    the speed kept in [3, 18]; each vehicle's speed goes to its group's by a tenth in each frame of .2 s, plus .15
    N(0, 1). Each scene is a recording; 20 % validate, 40 % test.
    """
    rng, step = np.random.default_rng(seed), 0.2
    group = np.arange(8) // 4
    x = 25.0 * group + rng.uniform(-8, 8, (scenes, 8))
    y = 3.5 * rng.integers(3, size=(scenes, 8))
    wanted, gain = rng.uniform(6, 14, (scenes, 2)), rng.uniform(-0.8, 0.8, (scenes, 2))
    speed = wanted[:, group]
    seen = []
    for _ in range(frames):
        seen.append(np.stack([x, y], -1))
        wanted = np.clip(wanted + gain * step, 3, 18)
        speed = speed + 0.1 * (wanted[:, group] - speed) + 0.15 * rng.standard_normal((scenes, 8))
        x = x + speed * step
    places = np.stack(seen, 2).reshape(scenes * 8, frames, 2)
    of = np.repeat(np.arange(scenes), 8)
    return Tracks(
        "synthetic_platoons", tuple(places), np.zeros(scenes * 8, np.int64), of, step, shares=(0.2, 0.4)
    )


# ---- one's own ----


def own(data_dir: Path | None = None) -> Tracks:
    """`tracks.csv` or `.parquet`: agent, x, y (numbers, in metres), and time (seconds or a time) or frame (a whole
    number), if there are any recording and split.

    The grid has the median distance between fixes of an agent. Rows of one recording in different parts are recordings
    of their own.
    """
    folder = tables.folder_of(data_dir, LAYOUT)
    path = tables.only(folder, "tracks", LAYOUT)
    table = tables.read(path, ["agent", "x", "y"])
    clock = next((column for column in ("time", "frame") if column in table.columns), None)
    if clock is None:
        raise DataError(
            f"data=own: {path.name} has no column 'time' or 'frame'; it has {tables.listed(table.columns)}"
        )
    cells = table.columns["agent"]
    tables.refuse(table, "agent", cells.among([""]), "needs one in every row")
    places = tables.matrix(table, ["x", "y"])
    texts = tables.words(table, clock)
    if clock == "frame" or 2 * sum(map(delimited.is_number, texts)) > len(texts):
        when = table.numbers(clock)
        if clock == "frame":
            broken = np.zeros(len(texts), bool)
            broken[table.columns[clock].codes[when != np.rint(when)]] = True
            tables.refuse(
                table, clock, broken, "must be a whole number; times of any kind go into a column 'time'"
            )
    else:
        when = times.read(table, clock).astype(np.int64).astype(np.float64)
    n = len(when)
    recording = np.zeros(n, np.int64)
    if "recording" in table.columns:
        tables.refuse(table, "recording", table.columns["recording"].among([""]), "needs one in every row")
        recording = table.columns["recording"].codes.astype(np.int64)
    given = splits.given(table, optional=False)
    part = np.zeros(n, np.int64)
    for i, name in enumerate(splits.PARTS if given else ()):
        part[given[name]] = i  # type: ignore[index]
    _, recording = np.unique(recording * len(splits.PARTS) + part, return_inverse=True)
    agent = cells.codes.astype(np.int64)
    order = np.lexsort((when, agent, recording))
    gaps = np.diff(when[order])
    gaps = gaps[(np.diff(recording[order]) == 0) & (np.diff(agent[order]) == 0) & (gaps > 0)]
    if not len(gaps):
        raise DataError(f"data=own: {path.name}: no agent has two rows; needs tracks of several frames")
    step = float(np.median(gaps))
    try:
        points, first, of, lost = on_grid(recording, agent, when, places, step)
    except ValueError as error:
        one, two = sorted(error.args)
        name = delimited.shown(cells.texts[int(agent[two])].as_py())
        raise tables.refuse_row(
            table, two, f"agent {name} at the time of {table.where(one)} again; each time once"
        ) from None
    if not len(points):
        raise DataError(f"data=own: {path.name}: no agent is there for two frames of {step:g} s")
    split: dict[str, np.ndarray] | None = None
    if given is not None:
        # The recordings were renumbered with their parts; those without a track are in none.
        split = {
            name: np.intersect1d(np.unique(recording[part == i]), of) for i, name in enumerate(splits.PARTS)
        }
        splits.check(split, f"{path.name}: column 'split'")
    return Tracks(tables.NAME, points, first, of, step, split, dropped={"fixes of single frames": lost})


LOADERS: dict[str, Callable[[Path | None], Tracks]] = {
    "aircraft": aircraft,
    "synthetic_platoons": synthetic_platoons,
    "own": own,
}


@lru_cache(maxsize=2)
def _load(name: str, data_dir: Path | None) -> Tracks:
    return LOADERS[name](data_dir)


def load(name: str, data_dir: Path | None = None) -> Tracks:
    """The tracks `name`, read once per process. DataError if unknown, missing or damaged."""
    if name not in LOADERS:
        raise DataError(f"data={name}: unknown tracks; known: {', '.join(LOADERS)}")
    return _load(name, None if data_dir is None else Path(data_dir))
