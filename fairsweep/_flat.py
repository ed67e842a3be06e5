"""Short names of the rooms in a checkout: `analysis.store` is the module `fairsweep.analysis.store`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

ROOMS = ("analysis", "cluster", "search_spaces", "trainables")


class FlatNames(MetaPathFinder, Loader):
    """Gives the one module of two names, so that a class is the same whichever name it was imported by.

    checkout: the folder of the rooms. A folder of the user's called `analysis`, found first, stays the user's.
    """

    def __init__(self, checkout: Path) -> None:
        self.checkout = checkout

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        room, _, rest = fullname.partition(".")
        # `python -m cluster.x` and `python -m cluster` have to be run, not found: their own finder does that.
        if room not in ROOMS or rest.endswith("__main__") or not self._ours(room):
            return None
        known = importlib.import_module(f"fairsweep.{fullname}")
        return ModuleSpec(fullname, self, origin=known.__file__, is_package=hasattr(known, "__path__"))

    def _ours(self, room: str) -> bool:
        found = PathFinder.find_spec(room)
        if found is None or found.origin is None:
            return False
        return (
            Path(found.origin).resolve() == self.checkout / room / "__init__.py"
        )  # the checkout is resolved, too

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        known = importlib.import_module(f"fairsweep.{spec.name}")
        spec.loader_state = known.__spec__  # the import system is about to overwrite it
        return known

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        assert spec is not None
        module.__spec__ = spec.loader_state


def install(checkout: Path) -> None:
    """Once a process."""
    if not any(isinstance(finder, FlatNames) for finder in sys.meta_path):
        sys.meta_path.insert(0, FlatNames(checkout))
