"""Configurations of papers for their tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from fairsweep.search_spaces.space import Space


def paper_config(slug: str, data: str, **changes: Any) -> dict[str, Any]:
    """The paper's own configuration for `data` with `changes` of its space, completed and validated by that."""
    declared = Space.load(slug)
    raw = yaml.safe_load(Path(declared.source).read_text()) | changes
    space = Space.from_mapping(raw, declared=declared).for_data(data)
    return space.validate(space.paper_config(data))
