"""Where the files of a sweep lie, which of them are there, and who writes them."""

from __future__ import annotations

import math
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa

from fairsweep.analysis._files import Folder
from fairsweep.analysis._lease import Lease, written
from fairsweep.analysis._lock import Lock
from fairsweep.analysis._log import Log, Segment, scan

_PART = re.compile(r"(?:part|events)-(\d+)-(\d+)\.parquet")
_SEGMENT = re.compile(r"(\d+)\.log")
EPOCH = 10_000_000  # log objects of one remote writer; the next writer begins at the next multiple
_READERS = 8  # of a remote log's objects at a time


@dataclass(frozen=True)
class Paths:
    """Where the files of a sweep lie, relative to the store."""

    sweep: str

    @property
    def results(self) -> str:
        return f"results/{self.sweep}"

    @property
    def trials(self) -> str:
        return f"trials/{self.sweep}/trials.parquet"

    @property
    def row(self) -> str:
        return f"sweeps/{self.sweep}/sweep.parquet"

    @property
    def tags(self) -> str:
        return f"tags/{self.sweep}/tags.parquet"

    @property
    def log(self) -> str:
        return f"log/{self.sweep}"

    @property
    def folders(self) -> tuple[str, ...]:
        return (self.results, f"trials/{self.sweep}", f"sweeps/{self.sweep}", self.log)

    @property
    def lock(self) -> str:
        return f"{self.log}/lock"

    @property
    def lease(self) -> str:
        """On an object store, what the lock is elsewhere."""
        return f"{self.log}/writer.json"

    def part(self, table: str, first: int, last: int) -> str:
        folder, word = (self.results, "part") if table == "results" else (self.log, "events")
        return f"{folder}/{word}-{first:012d}-{last:012d}.parquet"


@dataclass
class Part:
    """A Parquet file with the rows of one table numbered `first` .. `last`; `rows` is None if unreadable."""

    name: str
    first: int
    last: int
    rows: pa.Table | None = None
    problem: str = ""

    @property
    def length(self) -> int:
        """How many numbers it spans."""
        return self.last - self.first + 1


def read_log(folder: Folder, paths: Paths, sealed: int = 0) -> Log:
    """The segments, scanned: those with rows after number `sealed`, the others where rows of them are asked for.

    On a remote file system all of them: what two writers have appended there is only seen side by side. What one
    has appended after another had taken the sweep over is left out: nobody was told that it is down.
    """
    names = [n for n in folder.names(paths.log) if _SEGMENT.fullmatch(n)]

    def scanned(name: str) -> Segment:
        return scan(folder.path(f"{paths.log}/{name}"), folder.read(f"{paths.log}/{name}"))

    if not folder.local:
        with ThreadPoolExecutor(_READERS) as readers:
            return Log(_up_to_its_end(list(readers.map(scanned, names))))
    found: list[Segment] = []
    while names and not (found and found[0].frames and found[0].frames[0].seq <= sealed + 1):
        found.insert(0, scanned(names.pop()))
    return Log(found, (lambda: [scanned(name) for name in names]) if names else None)


def _up_to_its_end(segments: list[Segment]) -> list[Segment]:
    """Of each writer what comes before the first row of those after it."""
    epoch, end, first = -1, math.inf, math.inf
    for segment in reversed(segments):
        of = int(segment.path.rpartition("/")[2].removesuffix(".log")) // EPOCH
        if of != epoch:
            epoch, end = of, min(end, first)
        segment.frames = [frame for frame in segment.frames if frame.seq < end]
        first = min([first, *(frame.seq for frame in segment.frames[:1])])
    return segments


def claim(folder: Folder, where: str) -> Lock | Lease:
    """By what a process holds a folder of the store: a lock in it, on an object store an object that names the process.

    Of a sweep it is that of its log (`Paths`).
    """
    return Lock(folder.path(f"{where}/lock")) if folder.local else Lease(folder, f"{where}/writer.json")


def live(folder: Folder, paths: Paths) -> bool | None:
    """Whether a live process writes the sweep; None if nobody can tell from here."""
    return Lock(folder.path(paths.lock)).held() if folder.local else written(folder, paths.lease)


def list_parts(folder: Folder, paths: Paths, table: str, where: str | None = None) -> list[Part]:
    """The parts of `results` or `events` that are there, or in another folder `where`; longest first."""
    where = where or (paths.results if table == "results" else paths.log)
    found = [(n, _PART.fullmatch(n)) for n in folder.names(where)]
    parts = [Part(f"{where}/{n}", int(m[1]), int(m[2])) for n, m in found if m]
    return sorted(parts, key=lambda p: (-p.length, p.first))
