"""fairsweep: which method is best on my data when all get the same tuning budget, and how sure are we.

Everything lives under this name: `from fairsweep.analysis.store import Store`. In a checkout the rooms lie beside this
folder, in an installed wheel inside of it.
"""

from __future__ import annotations

from pathlib import Path

_here = Path(__file__).resolve().parent
if not (_here / "cluster").is_dir():
    __path__.append(str(_here.parent))
    from fairsweep import _flat

    _flat.install(_here.parent)
