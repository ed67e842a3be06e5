"""Stores for reports: made-up sweeps of any size, comparisons, claims and networks, written as the real ones are."""

from __future__ import annotations

import json
import math
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fairsweep.analysis import _appender
from fairsweep.analysis.store import Store

BEGAN = datetime(2026, 3, 1, 8, tzinfo=timezone.utc)
NASTY = "<b>sgd</b></script>"  # what a user may call a choice
ERROR = "Traceback: <b>x</b>\n</script><script>document.title = 'taken'</script>"
REASON = "RuntimeError: <b>out</b> of </script> memory"
SPACE = f"""
lr: {{type: float, low: 1.0e-5, high: 1.0, log: true, paper: {{default: 0.001}}}}
layers: {{type: int, low: 1, high: 8, paper: {{default: 3}}}}
dropout: {{type: float, low: 0.0, high: 0.9, paper: {{default: 0.1}}}}
optimiser: {{type: categorical, choices: [adam, '{NASTY}', lion], paper: {{default: adam}}}}
momentum: {{type: float, low: 0.0, high: 0.99, when: {{optimiser: ['{NASTY}']}}, paper: {{default: 0.9}}}}
"""
FIELDS = [
    pa.field("config.lr", pa.float64()),
    pa.field("config.layers", pa.int64()),
    pa.field("config.dropout", pa.float64()),
    pa.field("config.optimiser", pa.string()),
    pa.field("config.momentum", pa.float64()),
]
METRICS = ["val_loss", "val_accuracy", "test_accuracy"]


def swift(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody pulls the plug in a test: what is in the page cache is safe."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(_appender, "_sync", lambda handle: None)


def write_sweep(
    where: Path | str, name: str = "s", configs: int = 30, seeds: int = 2, reports: int = 9, **row: Any
) -> Store:
    """A sweep with complete, stopped and failed trials, of a loss that depends on lr most and on dropout."""
    store, rng, clock = Store(where), np.random.default_rng(0), 0.0
    about = {
        "paper": "p", "title": "Made <i>up</i>", "data": "digits", "objective": "val_loss", "mode": "min",
        "state": "running", "space": SPACE, "seeds": seeds, "created": BEGAN, "trials_budget": configs,
        "command": f"fairsweep run trainable=p name={name}", "versions": '{"python": "3.11"}',
        "config": f"name: {name}\n", "elapsed_s": 60.0, **row,
    }  # fmt: skip
    with store.create(name, about, config_fields=FIELDS, metric_names=METRICS) as writer:
        writer.seal_every = 1e9
        for c in range(configs):
            config: dict[str, Any] = {
                "lr": float(10 ** rng.uniform(-5, 0)),
                "layers": int(rng.integers(1, 9)),
                "dropout": float(rng.uniform(0, 0.9)),
                "optimiser": ("adam", NASTY, "lion")[rng.integers(3)],
            }
            if config["optimiser"] == NASTY:
                config["momentum"] = float(rng.uniform(0, 0.99))
            centre = (
                0.1 + 0.3 * (math.log10(config["lr"]) + 2.5) ** 2 / 4 + 0.4 * (config["dropout"] - 0.3) ** 2
            )
            for seed in range(seeds):
                value = centre * math.exp(0.08 * rng.normal())
                state = str(rng.choice(["complete", "pruned", "failed"], p=[0.6, 0.35, 0.05]))
                state = (
                    ("failed", "complete")[c % 2] if c < 2 else state
                )  # one of each, however few there are
                steps = reports if state == "complete" else reports // 3 or 1
                clock += steps
                at = BEGAN + timedelta(seconds=clock)
                values = {"metric.val_loss": value * (1 + 2 / steps), "metric.val_accuracy": 1 / (1 + value)}
                tested = {"metric.test_accuracy": 1 / (1.01 + value)} if state == "complete" else {}
                trial = f"{c:05d}-{seed}"
                with writer.batch():
                    writer.results(
                        [
                            {
                                "trial": trial, "config_id": c, "seed": seed, "step": s, "time": at, "wall_s": 1.0 * s,
                                "metric.val_loss": value * (1 + 2 / s), "metric.val_accuracy": 1 / (1 + value),
                            }
                            for s in range(1, steps + 1)
                        ]
                    )  # fmt: skip
                    writer.trial(
                        trial, number=c * seeds + seed, config_id=c, seed=seed, state=state, paper="p", data="digits",
                        objective="val_loss", mode="min", started=at - timedelta(seconds=steps), ended=at,
                        reason={"failed": REASON, "pruned": f"stopped by asha at step {steps}"}.get(state),
                        error=ERROR if state == "failed" else None, best_step=steps, steps=steps, cost_s=1.0 * steps,
                        value=None if state == "failed" else value * (1 + 2 / steps),
                        config_json=json.dumps(config), **{f"config.{k}": v for k, v in config.items()},
                        **({} if state == "failed" else values), **tested,
                    )  # fmt: skip
        writer.close(state="finished")
    return store


def comparison_rows(
    repeats: int = 6, data: tuple[str, ...] = ("cora", "<b>mine</b>")
) -> list[dict[str, Any]]:
    """Rows of `comparisons`: three methods, one of which is better, and a repeat that failed."""
    rng, rows = np.random.default_rng(1), []
    for m, method in enumerate(("dagnn", "gcn", "</script>mlp")):
        for d, name in enumerate(data):
            for r in range(repeats):
                score = 0.9 - 0.05 * m - 0.1 * d + 0.005 * float(rng.normal())
                lost = m == 2 and r == repeats - 1
                rows.append(
                    {
                        "run": "c", "method": method, "trainable": method, "fixed": "{}", "data": name,
                        "repeat": r, "state": "failed" if lost else "complete", "metric": "test_accuracy",
                        "mode": "max",
                        "score": None if lost else score, "scores": json.dumps([score]), "validation": score,
                        "objective": "val_loss", "config": "{}", "budget_kind": "trials", "budget": 10.0, "trials": 10,
                        "steps": 100, "cost_s": 20.0, "wall_s": 9.0, "failures": 1, "final_cost_s": 4.0,
                        "search": f"s{m}{d}{r}" if d == 0 and r < 2 else None, "final": None, "split_seed": r,
                        "seeds": "[1]", "parts": '{"test": "aa"}', "reason": "<i>lost</i>" if lost else None,
                        "judged": BEGAN,
                    }
                )  # fmt: skip
    return rows


def write_comparison(where: Path | str, searches: bool = True, **options: Any) -> Store:
    """A comparison `c`, with a few of its searches in the store."""
    store, rows = Store(where), comparison_rows(**options)
    for row in rows:
        if searches and row["search"]:
            write_sweep(where, row["search"], 6, 1, 3)
    store.write_derived("comparisons", "c", [{k: v for k, v in r.items() if k != "run"} for r in rows])
    return store


def write_claims(where: Path | str) -> Store:
    """A run `k` of claims: one that holds, one that fails, one of a direction alone, one without an effect."""
    made = [
        ("holds", 0.5, 0.4, 0.6, 0.2, "holds", "holds"),
        ("fails", -0.2, -0.3, -0.1, 0.1, "fails", "fails"),
        ("direction", 0.01, -0.01, 0.03, 0.0, "inconclusive", "inconclusive"),
        ("</script>none", None, None, None, 0.1, "inconclusive", "inconclusive"),
    ]
    rows = [
        {
            "paper": "p", "claim": name, "statement": f"<b>{name}</b> is better", "data": "d",
            "metric": "test_accuracy",
            "kind": "difference", "direction": "at_least", "margin": margin, "null": 0.0, "origin": "paper",
            "treatment": "{}", "baseline": "{}", "seeds": 3, "pairs": 3, "effect": effect, "ci_low": low,
            "ci_high": high,
            "direction_verdict": first, "direction_replication": 0.9, "size_verdict": second, "size_replication": 0.8,
            "reason": "all of it", "cost_s": 3.0, "sweep": "k-p", "judged": BEGAN,
        }
        for name, effect, low, high, margin, first, second in made
    ]  # fmt: skip
    store = Store(where)
    store.write_derived("claims", "k", rows)
    return store


def write_networks(where: Path | str) -> Store:
    """A search `n` for a network, of cells that were scored and two that were trained alone."""
    from fairsweep.search_spaces.architectures.catalog import space_of_id

    space = space_of_id("cell/1?nodes=4&operations=all&disconnected=false")
    rng, rows = np.random.default_rng(0), []
    for k in range(20):
        text = space.format(space.sample(rng))
        alone = {
            "alone": 0.9 + 0.01 * k,
            "alone_ci_low": 0.88,
            "alone_ci_high": 0.99,
            "alone_seeds": 3,
            "test": 0.9,
        }
        rows.append(
            {
                "number": k, "architecture": text, "space": space.id, "options": "{}", "algorithm": "random",
                "phase": "retrain" if k < 2 else "score", "score": 0.5 + 0.01 * k, "scored_by": "supernet",
                "params": 1000 + 10 * k, "flops": 10_000 + k, "on_front": k % 5 == 0, **(alone if k < 2 else {}),
            }
        )  # fmt: skip
    store = write_sweep(where, "n", 4, 1, 3, paper="nas")
    store.write_derived("architectures", "n", rows)
    return store
