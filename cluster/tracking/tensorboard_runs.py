"""TensorBoard: a folder a trial, and one for the sweep; `tensorboard --logdir <storage>/tensorboard` shows them.

Event files cannot be taken up. A trial that goes on writes its whole history into a new file, which takes the place of
the earlier ones when it ends. The parameters are in the table of the plug-in HParams, with how the trial ended.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairsweep.cluster.tracking import Sweep, Trial

FLUSH_S = 1  # between writes to the disk: a worker that is killed leaves all that it reported before


def why_not(options: Mapping[str, Any]) -> str | None:
    """Why event files cannot be written here; None if they can."""
    try:
        import tensorboardX  # noqa: F401
    except ImportError:
        return "tracking=tensorboard: writes event files by tensorboardX, which is missing; pip install tensorboardX"
    return None


def open_run(options: Mapping[str, Any], trial: Trial) -> TensorboardRun:
    return TensorboardRun(options, trial)


def _writer(folder: Path) -> Any:
    from tensorboardX import SummaryWriter

    # Without a suffix of its own, a second file of the same second would take the first one's name.
    return SummaryWriter(str(folder), flush_secs=FLUSH_S, filename_suffix=f".{uuid.uuid4().hex[:8]}")


class TensorboardRun:
    """The event file of one trial."""

    def __init__(self, options: Mapping[str, Any], trial: Trial) -> None:
        self.trial, self.folder = trial, Path(options["dir"]) / trial.name
        self._earlier = sorted(self.folder.glob("events.out.tfevents.*"))
        self._metrics: dict[str, float] = {}
        self._hparams: Any = None
        self.writer = _writer(self.folder)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)
        self._metrics.update(metrics)

    def summary(self, values: Mapping[str, float], status: str, reason: str) -> None:
        from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData
        from tensorboardX.summary import hparams

        shown = "pruned" if status == "paused" else status
        config = {k: v for k, v in self.trial.config.items() if isinstance(v, (bool, int, float, str))}
        numbers = {**self._metrics, **values}
        for name, value in values.items():
            self.writer.add_scalar(f"end/{name}", value)
        self.writer.add_text("status", f"{shown}: {reason}")
        whole, begin, end = hparams({**config, "status": shown}, numbers)
        told = HParamsPluginData()
        told.ParseFromString(end.value[0].metadata.plugin_data.content)
        # api.proto: STATUS_SUCCESS 1, STATUS_FAILURE 2
        told.session_end_info.status = 2 if status == "failed" else 1
        told.session_end_info.end_time_secs = time.time()
        end.value[0].metadata.plugin_data.content = told.SerializeToString()
        for part in (whole, begin, end):
            self.writer.file_writer.add_summary(part)

    def finish(self, status: str) -> None:
        self.writer.close()
        for file in self._earlier:  # the new file holds their rows
            os.unlink(file)


def summarise(options: Mapping[str, Any], sweep: Sweep) -> None:
    """The sweep's own folder: its table of trials, the best, the importance of parameters."""
    writer = _writer(Path(options["dir"]) / "sweep")
    columns = list(sweep.rows[0]) if sweep.rows else ["trial"]
    lines = [columns, ["---"] * len(columns), *([row[c] for c in columns] for row in sweep.rows)]
    writer.add_text("trials", "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines))
    best = {**sweep.config, **sweep.values, "status": sweep.state}
    writer.add_text("sweep", "\n".join(f"- {name}: {_cell(value)}" for name, value in best.items()))
    for name, share in sweep.importance.items():
        writer.add_scalar(f"importance/{name}", share)
    for name, value in sweep.values.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            writer.add_scalar(f"end/{name}", value)
    if sweep.report:
        writer.add_text("report", f"beside this file: {Path(sweep.report).name}")
        target = Path(options["dir"]) / "sweep" / Path(sweep.report).name
        target.write_text(Path(sweep.report).read_text())
    writer.close()


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
