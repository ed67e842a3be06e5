"""Tables of truths: which architectures, resumable trainings, what is written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fairsweep.search_spaces.architectures import create_space
from fairsweep.search_spaces.architectures.files import read_table
from fairsweep.search_spaces.costs import count_flops, count_parameters
from fairsweep.search_spaces.supernets import build_supernet
from fairsweep.trainables.tasks import truth_tables
from fairsweep.trainables.tasks.truth_tables import (
    PROTOCOLS,
    Protocol,
    build_rows,
    build_table,
    read_log,
    tau,
    train_one,
)

torch.set_num_threads(1)

TINY = Protocol(
    "tiny",
    "chain",
    "digits",
    architectures=3,
    seeds=2,
    epochs=1,
    config={"train_images": 130, "validation_images": 100},
)


def test_protocols_list_their_architectures() -> None:
    conv, micro, chain = (PROTOCOLS[n].texts() for n in ("nb201_conv", "nb201_micro", "macro_chain"))
    assert len(set(conv)) == 64 and len(set(micro)) == 400 and len(set(chain)) == 243
    cells = create_space("cell")
    assert all(cells.is_valid(cells.parse(text)) for text in conv + micro)
    assert PROTOCOLS["nb201_micro"].texts() == micro, "fixed"
    assert (
        micro[0] == "|avg_pool_3x3~0|+|nor_conv_3x3~0|nor_conv_1x1~1|+|skip_connect~0|skip_connect~1|none~2|"
    )
    assert all(p.seeds == 5 and p.epochs == 6 for p in PROTOCOLS.values())
    assert len(PROTOCOLS["nb201_conv"].trainings()) == 320
    assert PROTOCOLS["nb201_conv"].trainings()[:64] == [(text, 0) for text in conv], "whole seeds first"


def test_recipe_of_the_tables() -> None:
    config = PROTOCOLS["nb201_micro"].full_config()
    recipe = {name: config[name] for name in ("lr", "wd", "momentum", "batch_size", "size", "supernet")}
    assert recipe == {
        "lr": 0.1, "wd": 5e-4, "momentum": 0.9, "batch_size": 64, "size": "laptop", "supernet": "cell"
    }  # fmt: skip


def test_digest_changes_with_what_decides_the_values() -> None:
    digests = {TINY.digest, replace(TINY, epochs=2).digest, replace(TINY, config={"lr": 0.2}).digest}
    assert len(digests) == 3 and replace(TINY).digest == TINY.digest


def test_training_is_repeatable_and_counts_what_it_costs() -> None:
    protocol = replace(TINY, kind="cell", config={})
    text = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|nor_conv_1x1~0|none~1|avg_pool_3x3~2|"
    rows = [train_one(protocol, None, (text, seed)) for seed in (3, 3, 4)]
    values = [(row["val_accuracy"], row["test_accuracy"]) for row in rows]
    assert values[0] == values[1] != values[2]
    net = build_supernet("cell", input_shape=(1, 8, 8), classes=10)
    module = net.build(net.space.parse(text))
    assert rows[0]["cost.parameters"] == count_parameters(module)
    assert rows[0]["cost.flops"] == count_flops(module, (1, 8, 8))


def test_an_interrupted_build_goes_on_and_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    first = list(build_rows(TINY, log, most=4))
    with log.open("a") as file:
        file.write('{"architecture": "222')  # as a kill leaves it
    assert read_log(log, TINY) == first
    table = build_table(TINY, tmp_path / "a.parquet", log=log)
    assert len(read_log(log, TINY)) == 6 and read_log(log, TINY)[:4] == first
    whole = build_table(TINY, tmp_path / "b.parquet")
    for name in ("test_accuracy", "val_accuracy"):
        assert table.values[name].shape == (3, 2)
        assert table.values[name].tolist() == whole.values[name].tolist()
    assert [table.space.format(a) for a in table] == sorted(TINY.texts())
    assert list(build_rows(TINY, log)) == [], "nothing is left"


def test_the_file_says_how_it_was_made(tmp_path: Path) -> None:
    protocol = replace(TINY, architectures=1, seeds=1)
    build_table(protocol, tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet")
    assert table.source.protocol["epochs"] == 1 and table.source.protocol["config"]["lr"] == 0.1
    assert table.source.command == "fairsweep bench build-table tiny --data-dir DIR"
    assert set(table.prices) == {"parameters", "flops", "train_seconds"}
    assert table.metric == "test_accuracy" and table.metrics["val_accuracy"].split == "validation"


@pytest.mark.slow
def test_two_processes_train_the_same(tmp_path: Path) -> None:
    protocol = replace(TINY, architectures=2, seeds=1)
    a = {r["architecture"]: r["test_accuracy"] for r in build_rows(protocol, tmp_path / "a", processes=2)}
    b = {r["architecture"]: r["test_accuracy"] for r in build_rows(protocol, tmp_path / "b")}
    assert a == b and len(a) == 2


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(json.dumps({"protocol": "another"}) + "\n")
    with pytest.raises(ValueError, match="of protocol another, not"):
        read_log(log, TINY)
    with pytest.raises(ValueError, match=r"tiny: 6 trainings are missing"):
        truth_tables.write(TINY, [], tmp_path / "t.parquet")


def test_tau_of_a_constant_is_nothing() -> None:
    assert tau(torch.zeros(3).numpy(), torch.arange(3).numpy()) == 0
    assert tau(torch.arange(3).numpy(), torch.arange(3).numpy()) == 1


def test_packaged_table_is_found_for_its_networks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    protocol = replace(TINY, name="shipped", architectures=0, seeds=1)
    opened = []

    class Data:
        name, side, images = "digits", 8, 600
        reduction = truth_tables.usual_reduction("digits")

    class Found:
        def over(self, space: object) -> str:
            return "the table"

    monkeypatch.setattr(truth_tables, "PROTOCOLS", {"shipped": protocol})
    monkeypatch.setattr(truth_tables, "packaged", lambda: ("shipped",))
    monkeypatch.setattr(truth_tables, "open_table", lambda name: opened.append(name) or Found())
    net = build_supernet("chain", input_shape=(1, 8, 8), classes=10)
    assert truth_tables.find_truth(net, "laptop", Data(), None) == "the table"  # type: ignore[arg-type]  # a stand-in
    assert opened == ["shipped"]
