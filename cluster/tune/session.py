"""What `tune.report` and `tune.get_checkpoint` of a user's function reach while it runs in one of our workers.

Ray 2.60: `ray.tune.report`, `get_checkpoint` and `get_context` all ask `ray.train._internal.session.get_session()`,
which gives the module's `_session`. Tune sets it for function trainables only; our workers are class trainables, so it
is None there, and we may put ours in its place while the user's function runs. A test runs the public functions through
it, so that a Ray that looks elsewhere is noticed. It offers what `_TrainSession` offers Tune functions:
`world_rank` is None, by which Ray tells Tune from Train.
"""

from __future__ import annotations

import contextlib
import io
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ray import tune
from ray.train._internal import session as rays


class Session:
    """One function's session. handle: of `trainables.own.running`; report: takes a dict of anything."""

    world_rank = local_rank = node_rank = world_size = local_world_size = None
    dataset_shard = metadata = storage = None

    def __init__(self, handle: Any, name: str, report: Callable[[Mapping[str, Any]], None]) -> None:
        self._handle, self._report = handle, report
        self.trial_name = self.trial_id = f"{name}_{handle.number}_{handle.seed}"
        self.experiment_name = self.run_id = name
        self._folders: list[Any] = []
        self._checkpoint: Any = None
        self._asked = False

    def report(self, metrics: Mapping[str, Any], checkpoint: Any = None) -> None:
        """A step; the checkpoint belongs to it, and is copied before the user's folder goes."""
        if checkpoint is not None:
            packed = pack(checkpoint)
            self._handle.checkpoint(packed)
            self._checkpoint, self._asked = self._unpacked(packed), True
        self._report(metrics)

    @property
    def loaded_checkpoint(self) -> Any:
        """The last checkpoint: that of this trial's earlier life, if it is asked for before the first report."""
        if not self._asked and self._handle.step == 0:
            packed = self._handle.restore()
            self._checkpoint = None if packed is None else self._unpacked(packed)
            self._asked = True
        return self._checkpoint

    def _unpacked(self, packed: bytes) -> Any:
        return tune.Checkpoint.from_directory(self._folder(packed))

    def _folder(self, packed: bytes | None) -> str:
        folder = tempfile.TemporaryDirectory(prefix="fairsweep-tune-")
        self._folders.append(folder)
        if packed is not None:
            unpack(packed, folder.name)
        return folder.name

    @property
    def trial_dir(self) -> str:
        """A folder for the trial's files, gone after it."""
        if not hasattr(self, "_dir"):
            self._dir = self._folder(None)
        return self._dir

    @property
    def trial_resources(self) -> Any:
        return tune.PlacementGroupFactory([{"CPU": 1.0}])

    def close(self) -> None:
        """Drops the folders."""
        for folder in self._folders:
            with contextlib.suppress(OSError):
                folder.cleanup()


@contextlib.contextmanager
def installed(session: Session) -> Iterator[None]:
    """`session` is what Tune's functions reach in the block."""
    before = rays._session
    rays._session = session  # type: ignore[assignment]
    try:
        yield
    finally:
        rays._session = before
        session.close()


def pack(checkpoint: Any) -> bytes:
    """The files of a checkpoint, as an archive."""
    buffer = io.BytesIO()
    with checkpoint.as_directory() as folder, tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(folder, arcname=".")
    return buffer.getvalue()


def unpack(packed: bytes, folder: str | Path) -> None:
    """Puts the files of an archive into a folder, and nothing outside of it."""
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
