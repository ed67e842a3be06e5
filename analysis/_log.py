"""The append-only log of a sweep: frames `<crc32 as 8 hex digits> <payload length> <json>\\n`.

One frame is one durable append. Its payload is `{"seq": s, "n": k, "rows": [[table, row], ...]}` and its
rows are numbered s .. s+k-1, so a batch is there as a whole or not at all.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

Row = tuple[str, dict[str, Any]]
_HEADER = re.compile(rb"([0-9a-f]{8}) (\d{1,15}) ")
_PAYLOAD = re.compile(rb'\{"seq":(\d+),"n":(\d+),')


def encode(seq: int, rows: list[Row]) -> bytes:
    """The frame of `rows`, the first of which has number `seq`."""
    body = json.dumps({"seq": seq, "n": len(rows), "rows": rows}, separators=(",", ":")).encode()
    return b"%08x %d %b\n" % (zlib.crc32(body), len(body), body)


@dataclass(frozen=True)
class Frame:
    """An intact frame: numbers `seq` .. `last`, at bytes `start` .. `end` of its segment."""

    seq: int
    count: int
    body: bytes
    start: int
    end: int

    @property
    def last(self) -> int:
        return self.seq + self.count - 1

    def rows(self) -> Iterator[tuple[int, str, dict[str, Any]]]:
        """Number, table and encoded row of each row."""
        for offset, (table, row) in enumerate(json.loads(self.body)["rows"]):
            yield self.seq + offset, table, row


def _frame_at(data: bytes, at: int) -> Frame | None:
    header = _HEADER.match(data, at)
    if header is None:
        return None
    start = header.end()
    stop = start + int(header[2])
    body = data[start:stop]
    if data[stop : stop + 1] != b"\n" or zlib.crc32(body) != int(header[1], 16):
        return None
    numbers = _PAYLOAD.match(body)
    if numbers is None:
        return None
    return Frame(int(numbers[1]), int(numbers[2]), body, at, stop + 1)


@dataclass
class Segment:
    """What a log file holds: intact frames, perhaps bytes that are no frame, perhaps frames again."""

    path: str
    size: int
    frames: list[Frame] = field(default_factory=list)
    bad_at: int | None = None
    frames_after: list[Frame] = field(default_factory=list)

    @property
    def torn_bytes(self) -> int:
        """Bytes after the last frame of the intact beginning."""
        return 0 if self.bad_at is None else self.size - self.bad_at


def scan(path: str, data: bytes) -> Segment:
    """Reads the frames of a segment; never raises for what the bytes are."""
    segment = Segment(path, len(data))
    at = 0
    while at < len(data):
        frame = _frame_at(data, at)
        if frame is None:
            segment.bad_at = at
            break
        segment.frames.append(frame)
        at = frame.end
    if segment.bad_at is not None:
        at = data.find(b"\n", segment.bad_at) + 1
        while 0 < at < len(data):
            frame = _frame_at(data, at)
            if frame is not None:
                segment.frames_after.append(frame)
                at = frame.end
            else:
                at = data.find(b"\n", at) + 1
    return segment


@dataclass
class Log:
    """The segments of a sweep, in order. `earlier` reads those before them, once rows of those are asked for."""

    segments: list[Segment] = field(default_factory=list)
    earlier: Callable[[], list[Segment]] | None = None

    def _reach(self, first: int) -> None:
        """Makes sure that rows from number `first` on are among `segments`, if they are in the log."""
        if self.earlier is not None and (self.first is None or first < self.first):
            earlier, self.earlier = self.earlier, None
            self.segments[:0] = earlier()

    @property
    def frames(self) -> list[Frame]:
        return [frame for segment in self.segments for frame in segment.frames]

    @property
    def first(self) -> int | None:
        """The number of the first row in `segments`."""
        return next((s.frames[0].seq for s in self.segments if s.frames), None)

    @property
    def last(self) -> int:
        """The number of the last intact row; 0 for an empty log."""
        return next((s.frames[-1].last for s in reversed(self.segments) if s.frames), 0)

    @property
    def torn_bytes(self) -> int:
        return sum(s.torn_bytes for s in self.segments)

    def holds(self, first: int, last: int) -> bool:
        """Whether every row numbered `first` .. `last` is in the log."""
        if first <= last:
            self._reach(first)
        for frame in self.frames:
            if frame.seq <= first <= frame.last:
                first = frame.last + 1
        return first > last

    def rows(self, table: str, first: int, last: int | None = None) -> list[tuple[int, dict[str, Any]]]:
        """Rows of `table` with numbers `first` .. `last`, in order."""
        if last is None or first <= last:
            self._reach(first)
        found = []
        for frame in self.frames:
            if frame.last >= first and (last is None or frame.seq <= last):
                for seq, name, row in frame.rows():
                    if name == table and seq >= first and (last is None or seq <= last):
                        found.append((seq, row))
        return found

    def fault(self, sealed: int) -> str | None:
        """What is wrong in the middle of `segments`, or None. A torn end is no fault: nobody was told of it.

        Nor is it one that rows up to `sealed` are missing, for those are elsewhere.
        """
        before = 0
        expected: int | None = None
        for index, segment in enumerate(self.segments):
            for frame in segment.frames:
                if expected is not None and not expected <= frame.seq <= max(expected, sealed + 1):
                    after = sum(f.count for s in self.segments for f in s.frames) - before
                    what = (
                        f"rows {expected} to {frame.seq - 1} are missing"
                        if frame.seq > expected
                        else (f"row {frame.seq} comes twice (two writers?)")
                    )
                    return (
                        f"{segment.path} at byte {frame.start}: {what}; "
                        f"{before} intact rows before, {after} after"
                    )
                expected = frame.last + 1
                before += frame.count
            later = [*segment.frames_after, *(f for s in self.segments[index + 1 :] for f in s.frames)]
            if segment.bad_at is not None and later:
                after = sum(f.count for f in later)
                return (
                    f"{segment.path} at byte {segment.bad_at}: bytes that are no record; "
                    f"{before} intact rows before, {after} after"
                )
        return None
