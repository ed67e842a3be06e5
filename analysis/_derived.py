"""The tables that follow from the others, by run: verdicts on claims, architectures, comparisons."""

from __future__ import annotations

import pyarrow as pa

TIME = pa.timestamp("us", tz="UTC")

CLAIMS = pa.schema(
    [
        ("run", pa.string()),
        ("paper", pa.string()),
        ("claim", pa.string()),
        ("statement", pa.string()),
        ("data", pa.string()),
        ("metric", pa.string()),
        ("kind", pa.string()),
        ("direction", pa.string()),
        ("margin", pa.float64()),
        ("null", pa.float64()),
        ("origin", pa.string()),
        ("why_margin", pa.string()),
        ("treatment", pa.string()),
        ("baseline", pa.string()),
        ("first_seed", pa.int64()),
        ("seeds", pa.int64()),
        ("steps", pa.int64()),
        ("pairs", pa.int64()),
        ("effect", pa.float64()),
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
        ("direction_verdict", pa.string()),
        ("direction_replication", pa.float64()),
        ("size_verdict", pa.string()),
        ("size_replication", pa.float64()),
        ("reason", pa.string()),
        ("tuning", pa.string()),
        ("cost_s", pa.float64()),
        ("sweep", pa.string()),
        ("judged", TIME),
    ]
)
ARCHITECTURES = pa.schema(
    [
        ("run", pa.string()),
        ("number", pa.int64()),
        ("architecture", pa.string()),
        ("space", pa.string()),
        ("options", pa.string()),
        ("algorithm", pa.string()),
        ("supernet", pa.string()),
        ("phase", pa.string()),
        ("parent", pa.string()),
        ("score", pa.float64()),
        ("scored_by", pa.string()),
        ("alone", pa.float64()),
        ("alone_ci_low", pa.float64()),
        ("alone_ci_high", pa.float64()),
        ("alone_seeds", pa.int64()),
        ("test", pa.float64()),
        ("params", pa.int64()),
        ("flops", pa.int64()),
        ("latency_ms", pa.float64()),
        ("latency_measured_ms", pa.float64()),
        ("full_params", pa.int64()),
        ("full_flops", pa.int64()),
        ("full_latency_ms", pa.float64()),
        ("on_front", pa.bool_()),
        ("folder", pa.string()),
        ("trial", pa.string()),
    ]
)
COMPARISONS = pa.schema(
    [
        ("run", pa.string()),
        ("method", pa.string()),
        ("trainable", pa.string()),
        ("fixed", pa.string()),
        ("data", pa.string()),
        ("repeat", pa.int64()),
        ("state", pa.string()),
        ("metric", pa.string()),
        ("mode", pa.string()),
        ("score", pa.float64()),
        ("scores", pa.string()),
        ("objective", pa.string()),
        ("validation", pa.float64()),
        ("config", pa.string()),
        ("budget_kind", pa.string()),
        ("budget", pa.float64()),
        ("trials", pa.int64()),
        ("steps", pa.int64()),
        ("cost_s", pa.float64()),
        ("wall_s", pa.float64()),
        ("failures", pa.int64()),
        ("final_cost_s", pa.float64()),
        ("search", pa.string()),
        ("final", pa.string()),
        ("split_seed", pa.int64()),
        ("seeds", pa.string()),
        ("parts", pa.string()),
        ("reason", pa.string()),
        ("left_out", pa.string()),
        ("judged", TIME),
    ]
)
DERIVED = {
    "claims": CLAIMS,
    "architectures": ARCHITECTURES,
    "comparisons": COMPARISONS,
}
