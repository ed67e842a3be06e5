"""Checkpoints of trials, in the store: written whole or not at all, checked when read.

One file a checkpoint, `<trial>/<step>.ckpt`: a line with the SHA-256 of what follows, then `torch.save`
bytes that load with `weights_only=True`. The newest that is intact counts.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from typing import Any

from pyarrow import fs as pafs

from analysis.store import filesystem

KEEP = 2


class Checkpoints:
    """The checkpoints of one sweep under the URI or folder `root`."""

    def __init__(self, root: str) -> None:
        self.fs, self.root = filesystem(root)

    def _folder(self, trial: str) -> str:
        return f"{self.root}/{trial}"

    def steps(self, trial: str) -> list[int]:
        """Steps of the checkpoints of `trial`, oldest first."""
        selector = pafs.FileSelector(self._folder(trial), allow_not_found=True)
        names = [f.base_name for f in self.fs.get_file_info(selector)]
        return sorted(int(n.removesuffix(".ckpt")) for n in names if n.endswith(".ckpt"))

    def save(self, trial: str, step: int, state: Mapping[str, Any]) -> None:
        """Writes a checkpoint and drops all but the newest two."""
        import torch

        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        body = buffer.getvalue()
        folder = self._folder(trial)
        self.fs.create_dir(folder, recursive=True)
        with self.fs.open_output_stream(f"{folder}/{step}.tmp") as out:
            out.write(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
        self.fs.move(f"{folder}/{step}.tmp", f"{folder}/{step}.ckpt")
        for old in self.steps(trial)[:-KEEP]:
            self.fs.delete_file(f"{folder}/{old}.ckpt")

    def load(self, trial: str) -> dict[str, Any] | None:
        """The newest intact checkpoint of `trial`, or None."""
        import torch

        for step in reversed(self.steps(trial)):
            with self.fs.open_input_stream(f"{self._folder(trial)}/{step}.ckpt") as source:
                raw = source.read()
            digest, _, body = raw.partition(b"\n")
            if hashlib.sha256(body).hexdigest().encode() == digest:
                return torch.load(io.BytesIO(body), weights_only=True)
        return None

    def delete(self, trial: str) -> None:
        """Removes all checkpoints of `trial`."""
        if self.steps(trial):
            self.fs.delete_dir(self._folder(trial))
