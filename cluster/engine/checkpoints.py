"""Checkpoints of trials, in the store: written whole or not at all, checked when read.

One file a checkpoint, `<trial>/<step>.ckpt`: a line with the SHA-256 of what follows, then `torch.save` bytes that load
with `weights_only=True`, or JSON where it says the same and PyTorch is not imported. The newest that is intact counts.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from pyarrow import fs as pafs

from fairsweep.analysis._files import Folder
from fairsweep.cluster.engine.trial import Trial
from fairsweep.trainables.own.process import at_hand
from fairsweep.trainables.own.source import TrainableError

KEEP = 2
PATIENCE_S = (
    120.0  # that a trial waits for the checkpoint it goes on from, on an object store that does not answer
)
SUFFIX, TEMPORARY = ".ckpt", ".tmp"
PLAIN = b"fairsweep-plain\n"


class StorageFault(OSError):
    """The storage failed, not the trial: what it was doing can be done again."""


@contextmanager
def _storage(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # every fsspec file system has errors of its own
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StorageFault(f"{what}: {first}") from error


class Checkpoints:
    """The checkpoints of one sweep under the URI or folder `root`."""

    def __init__(self, root: str) -> None:
        self.folder = Folder(root)
        self.fs, self.root = self.folder.fs, self.folder.root
        self.folder.patience.calm(PATIENCE_S)

    def _folder(self, trial: str) -> str:
        return f"{self.root}/{trial}"

    def _names(self, trial: str) -> list[str]:
        selector = pafs.FileSelector(self._folder(trial), allow_not_found=True)
        return [f.base_name for f in self.fs.get_file_info(selector)]

    def steps(self, trial: str) -> list[int]:
        """Steps of the checkpoints of `trial`, oldest first; files of other names are none of ours."""
        with _storage(f"the checkpoints of trial {trial} cannot be listed"):
            stems = [n.removesuffix(SUFFIX) for n in self._names(trial) if n.endswith(SUFFIX)]
        return sorted(int(stem) for stem in stems if stem.isascii() and stem.isdigit())

    def save(self, trial: str, step: int, state: Mapping[str, Any], plain: bool = False) -> None:
        """Writes a checkpoint and drops all but the newest two. StorageFault, with no file left behind.

        plain: there is nothing in it but what JSON holds, and bytes in the place of values: PyTorch is not imported. It
        never is for a state of such values.
        """
        body = _plain(state) if plain or ("torch" not in sys.modules and _is_plain(state)) else _torch(state)
        folder, whole = self._folder(trial), hashlib.sha256(body).hexdigest().encode() + b"\n" + body
        temporary = f"{folder}/{step}{TEMPORARY}"
        with _storage(f"the checkpoint of step {step} cannot be written"):
            try:
                if not self.folder.objects:
                    self.fs.create_dir(folder, recursive=True)
                if not self.folder.local:
                    self.folder.put(f"{trial}/{step}{SUFFIX}", whole, once=True)
                else:
                    with self.fs.open_output_stream(temporary) as out:
                        out.write(whole)
                    self.fs.move(temporary, f"{folder}/{step}{SUFFIX}")
            except BaseException:
                with suppress(Exception):
                    self.fs.delete_file(temporary)
                raise
        with suppress(Exception):  # what stays is deleted by the next one
            for old in self.steps(trial)[:-KEEP]:
                self.fs.delete_file(f"{folder}/{old}{SUFFIX}")

    def copy(self, source: str, target: str, step: int) -> bool:
        """Gives trial `target` the checkpoint of `step` of `source`; False if there is none. StorageFault."""
        if step not in self.steps(source):
            return False
        temporary = f"{self._folder(target)}/{step}{TEMPORARY}"
        with _storage(f"the checkpoint of step {step} of trial {source} cannot be copied"):
            self.fs.create_dir(self._folder(target), recursive=True)
            self.fs.copy_file(f"{self._folder(source)}/{step}{SUFFIX}", temporary)
            self.fs.move(temporary, f"{self._folder(target)}/{step}{SUFFIX}")
        return True

    def load(self, trial: str) -> dict[str, Any] | None:
        """The newest intact checkpoint of `trial`, or None. StorageFault if it cannot be read."""
        if not self.folder.local:  # waits for a store that does not answer
            with _storage(f"the checkpoints of trial {trial} cannot be listed"):
                self.folder.names(trial)
        for step in reversed(self.steps(trial)):
            with _storage(f"the checkpoint of step {step} cannot be read"):
                raw = self.folder.read(f"{trial}/{step}{SUFFIX}")
            digest, _, body = raw.partition(b"\n")
            if hashlib.sha256(body).hexdigest().encode() == digest:
                return _read(body)
        return None

    def delete(self, trial: str) -> None:
        """Removes all checkpoints of `trial`, and what a worker that died left half-written."""
        with _storage(f"the checkpoints of trial {trial} cannot be deleted"):
            if self._names(trial):
                self.fs.delete_dir(self._folder(trial))

    def sizes(self) -> dict[str, int]:
        """Bytes that the checkpoints of each trial take."""
        selector = pafs.FileSelector(self.root, allow_not_found=True, recursive=True)
        with _storage("the checkpoints cannot be listed"):
            files = [f for f in self.fs.get_file_info(selector) if f.is_file]
        found: dict[str, int] = {}
        for file in files:
            trial = file.path.removeprefix(f"{self.root}/").partition("/")[0]
            found[trial] = found.get(trial, 0) + file.size
        return found

    def sweep_up(self, trial: str) -> None:
        """Drops what workers that died left half-written; for who is to go on with `trial`."""
        with suppress(Exception):  # nothing depends on it
            for name in self._names(trial):
                if name.endswith(TEMPORARY):
                    self.fs.delete_file(f"{self._folder(trial)}/{name}")


def _torch(state: Mapping[str, Any]) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    return buffer.getvalue()


def prove(state: Any, name: str) -> None:
    """TrainableError if `state`, of a class called `name`, could be written and not be read again."""
    if _is_plain(state):
        return
    try:
        _read(_torch({"state": state}))
    except Exception as error:  # of PyTorch, of pickle, of the objects in the state
        where, what = _foreign(state) or ("", type(state).__name__)
        raise TrainableError(
            f"state_dict() of {name}: {where or 'it'} is of type {what}, which a checkpoint cannot be read with; give"
            " tensors, numbers, texts, bytes and containers of these (pickle.dumps makes bytes of an object)"
        ) from error


def _foreign(state: Any, where: str = "") -> tuple[str, str] | None:
    """Where in `state` something lies that is no plain value, and its type; None where all are plain."""
    inside: Iterable[tuple[Any, Any]] = ()
    if isinstance(state, Mapping):
        inside = state.items()
    elif isinstance(state, (list, tuple, set)):
        inside = enumerate(state)
    elif not (
        state is None
        or isinstance(state, (bool, int, float, str, bytes))
        or hasattr(state, "is_floating_point")
    ):
        return where, type(state).__name__
    return next((found for key, value in inside if (found := _foreign(value, f"{where}[{key!r}]"))), None)


def _is_plain(value: Any) -> bool:
    """Whether `_read` gives back of `_plain` what it was given, to the type."""
    kind = type(value)
    if kind is dict:
        return all(type(key) is str and _is_plain(v) for key, v in value.items()) and list(value) != ["bytes"]
    if kind is list:
        return all(map(_is_plain, value))
    return value is None or kind in (bool, int, float, str, bytes)


def _plain(state: Mapping[str, Any]) -> bytes:
    """A line of JSON, and behind it the bytes of the values that are bytes."""
    blobs: list[bytes] = []

    def aside(value: Any) -> Any:
        if not isinstance(value, bytes):
            raise TypeError(f"{type(value).__name__} in a plain checkpoint")
        blobs.append(value)
        return {"bytes": [sum(map(len, blobs[:-1])), len(value)]}

    return PLAIN + json.dumps(dict(state), default=aside).encode() + b"\n" + b"".join(blobs)


def _read(body: bytes) -> dict[str, Any]:
    if not body.startswith(PLAIN):
        import torch

        return torch.load(io.BytesIO(body), weights_only=True, map_location=at_hand)
    text, _, rest = body.removeprefix(PLAIN).partition(b"\n")

    def back(found: dict[str, Any]) -> Any:
        if list(found) != ["bytes"] or not isinstance(found["bytes"], list):
            return found
        begin, size = found["bytes"]
        return rest[begin : begin + size]

    return json.loads(text, object_hook=back)


class Keeper:
    """Deletes checkpoints that nothing needs: of trials that are done, all but those that `keep` says.

    keep: `best` (of complete trials, that of the best; of those that early stopping stopped, all as long as a longer
    sweep may promote them), `none`, or `all`.
    """

    def __init__(self, checkpoints: Checkpoints, keep: str, mode: str, note: Callable[[str], None]) -> None:
        self.checkpoints, self.keep, self.note = checkpoints, keep, note
        self.sign = 1.0 if mode == "min" else -1.0
        self.best: tuple[float, str] | None = None

    def ended(self, trial: Trial) -> None:
        """To be called when a trial comes to rest."""
        if trial.state not in ("complete", "pruned", "failed") or self.keep == "all":
            return
        if self.keep == "none":
            if trial.state == "complete" and trial.steps <= 1:
                return  # it never wrote one; looking costs more than a short trial does
            self._delete(trial.id)
            return
        loss = self.sign * trial.value if trial.state == "complete" and trial.value is not None else None
        if loss is not None and (self.best is None or loss < self.best[0]):
            loser, self.best = self.best, (loss, trial.id)
            if loser is not None:
                self._delete(loser[1])
        else:
            self._delete(trial.id)

    def known(self, trials: Iterable[Trial]) -> None:
        """Takes over which trial of earlier runs has the checkpoint that is kept."""
        done = [(self.sign * t.value, t.id) for t in trials if t.state == "complete" and t.value is not None]
        self.best = min(done, default=None)

    def closed(self, trials: Iterable[Trial]) -> None:
        """To be called when the sweep is finished: nothing that was stopped goes on, unless it grows."""
        if self.keep == "none":
            for trial in trials:
                if trial.state == "pruned":
                    self._delete(trial.id)

    def _delete(self, trial: str) -> None:
        try:
            self.checkpoints.delete(trial)
        except StorageFault as fault:  # it is in nobody's way
            self.note(str(fault))
