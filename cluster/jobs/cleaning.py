"""The job `clean`: drops the checkpoints of a finished sweep that only its growth would need."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import OmegaConf

from fairsweep.analysis.store import Store
from fairsweep.cluster.engine.checkpoints import Checkpoints
from fairsweep.cluster.errors import UserError
from fairsweep.trainables.nas._job import SearchJob


@dataclass(frozen=True)
class Cleaned:
    """Trials whose checkpoints were dropped, the bytes that they took, and the trials that keep theirs."""

    dropped: tuple[str, ...]
    bytes: int
    kept: tuple[str, ...]


def clean(store: Store, name: str) -> Cleaned:
    """Drops the checkpoints of all trials of sweep `name` but those that `keep_checkpoints` keeps.

    Trials that early stopping stopped keep theirs for a longer sweep that may promote them; after this, such a
    trial is trained anew from its start. UserError for a sweep that is not finished, or an architecture search.
    """
    record = store.read(name)
    if record.sweep["paper"] == SearchJob.slug:
        raise UserError(f"{name}: is an architecture search; its checkpoints are the networks that it found")
    if record.sweep["state"] not in ("finished", "failed") or not record.sweep["closed"]:
        raise UserError(
            f"{name}: is {record.sweep['state']}; its trials go on from their checkpoints, so finish it first "
            f"(`fairsweep resume {name}`)"
        )
    keep = OmegaConf.create(record.sweep["config"]).keep_checkpoints
    sign = 1.0 if record.sweep["mode"] == "min" else -1.0
    done = [t for t in record.trials.values() if t["state"] == "complete" and t["value"] is not None]
    if keep == "all":
        wanted = {t["trial"] for t in done}
    else:
        best = min(done, key=lambda t: (sign * t["value"], t["number"]), default=None)
        wanted = {best["trial"]} if best is not None and keep == "best" else set()
    checkpoints = Checkpoints(store.checkpoint_dir(name))
    sizes = checkpoints.sizes()
    dropped = sorted(set(sizes) - wanted)
    for trial in dropped:
        checkpoints.delete(trial)
    return Cleaned(tuple(dropped), sum(sizes[t] for t in dropped), tuple(sorted(set(sizes) & wanted)))
