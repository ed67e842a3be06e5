"""Tables of architectures as jobs use them: found by name, and in place of a network that is scored."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from fairsweep.cluster.errors import UserError
from fairsweep.search_spaces.architectures.base import LISTED, Architecture, ArchitectureSpace
from fairsweep.search_spaces.architectures.files import open_table
from fairsweep.search_spaces.architectures.tables import Table, TableError
from fairsweep.trainables.tasks.small_images import whole_set

MACRO_FILE = "nas_bench_macro/nas-bench-macro_cifar10.json"  # in the folder of data sets
UNTABULATED = "untabulated"  # a cost: 1 for what the table lacks
SCALES = {"percent": 100.0, "fraction": 1.0}


def open_named(name: str, data_dir: str | None) -> Table:
    """The table of this name, or of a .parquet file. UserError if there is none.

    data_dir: folder with data sets, where the published file of NAS-Bench-Macro lies.
    """
    try:
        if name == "nas_bench_macro" and data_dir is None:
            raise UserError(f"table={name}: data_dir=null: must be the folder in which {MACRO_FILE} lies")
        return open_table(name, Path(data_dir, MACRO_FILE) if data_dir else None)
    except TableError as error:
        raise UserError(str(error)) from None


def alike(data: str, other: str | None) -> bool:
    """Whether two names of data sets are of one set, reduced or not; what does not say its own (None) may be."""
    return other is None or whole_set(data) == whole_set(other)


class TableScores:
    """What a search over `space` is told by a table: its validation accuracy, or what it has instead, as a fraction.

    Where all its architectures lie in `space`, `self.space` is the table's own, which may be a part of that.
    UserError if none lies there, or the table has no accuracy.
    """

    def __init__(self, name: str, table: Table, space: ArchitectureSpace) -> None:
        self.name = name
        try:
            within = table.over(space)
        except TableError as error:
            raise UserError(f"table={name}: {error}") from None
        self.table = table if len(within) == len(table) else within
        self.space = self.table.space
        validation = [name for name, metric in table.metrics.items() if metric.split == "validation"]
        self.metric = validation[0] if validation else table.metric
        about = table.metrics[self.metric]
        if about.mode != "max" or about.unit not in SCALES:
            raise UserError(
                f"table={name}: {self.metric} is in {about.unit}, {about.mode} is best; must be an accuracy, "
                f"in {' or '.join(SCALES)}"
            )
        self._scale = SCALES[about.unit]

    def __contains__(self, architecture: Architecture) -> bool:
        return architecture in self.table

    @cached_property
    def complete(self) -> bool:
        """Whether it has every member of its space; a space too large to list counts as one that it has not."""
        return self.space.size <= LISTED and sum(1 for _ in self.space.enumerate()) == len(self.table)

    def values(self, texts: Sequence[str]) -> list[float]:
        """Accuracies of the architectures that `texts` name: means over the seeds, fractions."""
        return [self.table.value(self.space.parse(text), self.metric) / self._scale for text in texts]
