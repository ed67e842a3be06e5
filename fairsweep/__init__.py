"""fairsweep: which method is best on my data when all get the same tuning budget, and how sure are we.

Everything lives under this name: `from fairsweep.analysis.store import Store`. In a checkout the rooms lie beside this
folder, in an installed wheel inside of it.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fairsweep.analysis.store import Store
    from fairsweep.cluster.api import Sweep, claims, open, resume, run
    from fairsweep.cluster.comparison import Comparison, compare, open_comparison
    from fairsweep.cluster.errors import UserError
    from fairsweep.cluster.service.client import connect
    from fairsweep.search_spaces.space import Space
    from fairsweep.trainables.base import Fidelity, Metric, Paper, Setting
    from fairsweep.trainables.own.declare import trainable

__all__ = [
    "Comparison",
    "Fidelity",
    "Metric",
    "Paper",
    "Setting",
    "Space",
    "Store",
    "Sweep",
    "UserError",
    "claims",
    "compare",
    "connect",
    "open",
    "open_comparison",
    "resume",
    "run",
    "trainable",
]

_here = Path(__file__).resolve().parent
if not (_here / "cluster").is_dir():
    __path__.append(str(_here.parent))
    from fairsweep import _flat

    _flat.install(_here.parent)

# What stands behind the door is imported when it is asked for: `import fairsweep` costs nothing.
_BEHIND = {
    "Comparison": "cluster.comparison",
    "Fidelity": "trainables.base",
    "Metric": "trainables.base",
    "Paper": "trainables.base",
    "Setting": "trainables.base",
    "Space": "search_spaces.space",
    "Store": "analysis.store",
    "Sweep": "cluster.api",
    "UserError": "cluster.errors",
    "claims": "cluster.api",
    "compare": "cluster.comparison",
    "connect": "cluster.service.client",
    "open": "cluster.api",
    "open_comparison": "cluster.comparison",
    "resume": "cluster.api",
    "run": "cluster.api",
    "trainable": "trainables.own.declare",
}


def __getattr__(name: str) -> Any:
    if name not in _BEHIND:
        raise AttributeError(
            f"module 'fairsweep' has no attribute {name!r}; it has {', '.join(sorted(_BEHIND))}"
        )
    return getattr(importlib.import_module(f"fairsweep.{_BEHIND[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_BEHIND})
