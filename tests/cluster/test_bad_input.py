"""What a user can get wrong: one clear line, exit code 2, and a store that is as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairsweep.cluster import config
from fairsweep.cluster.cli import run_cli

RUN = ["run", "trainable=test_bowl"]

# (arguments, words that the line must contain)
CASES: list[tuple[list[str], list[str]]] = [
    (["run"], ["trainable", "dagnn"]),
    (["run", "trainable=dagn"], ["trainable=dagn", "did you mean dagnn"]),
    (["run", "trainable="], ["trainable"]),
    ([*RUN, "budget.trials=0"], ["budget.trials=0", "at least 1"]),
    ([*RUN, "budget.trials=-3"], ["budget.trials=-3", "at least 1"]),
    ([*RUN, "budget.trials=many"], ["budget.trials=many", "whole number"]),
    ([*RUN, "budget.trials=2.5"], ["budget.trials=2.5", "whole number"]),
    ([*RUN, "budget.trials=null"], ["budget.trials=None", "whole number"]),
    ([*RUN, "split_seed=-1"], ["split_seed=-1", "whole number of at least 0"]),
    ([*RUN, "split_seed=first"], ["split_seed=first", "whole number of at least 0"]),
    ([*RUN, "test=2"], ["test=2", "true or false"]),
    ([*RUN, "budget.trails=5"], ["budget.trails", "did you mean budget.trials"]),
    ([*RUN, "budget.minutes=0"], ["budget.minutes=0", "above 0"]),
    ([*RUN, "budget.steps=0"], ["budget.steps=0", "at least 1"]),
    ([*RUN, "budget.concurrent=0"], ["budget.concurrent=0", "at least 1"]),
    ([*RUN, "budget.trial_timeout=-1"], ["budget.trial_timeout=-1", "above 0"]),
    ([*RUN, "budget.retries=-1"], ["budget.retries=-1", "at least 0"]),
    ([*RUN, "search=tpee"], ["search=tpee", "did you mean tpe"]),
    (
        [*RUN, "search=cmaes", "space.x=0.5", "space.y=1"],
        ["search=cmaes", "no searched number", "use tpe or gp"],
    ),
    ([*RUN, "search=tpe", "search.ahead=-1"], ["search.ahead=-1", "at least 0"]),
    ([*RUN, "search=tpe", "search.ahead=often"], ["search.ahead=often", "whole number of at least 0"]),
    ([*RUN, "search=grid", "search.points=0"], ["search.points=0", "at least 1"]),
    (
        [*RUN, "search=grid", "search.points=1000000"],
        ["search.points=1000000", "12,000,000 configurations", "fewer points"],
    ),
    (
        ["run", "trainable=test_unfathomed", "budget.steps=13"],
        ["trainable=test_unfathomed", "fidelity", "depth"],
    ),
    ([*RUN, "scheduler=hyperbands"], ["scheduler=hyperbands", "did you mean hyperband"]),
    ([*RUN, "scheduler=hyperband", "scheduler.eta=1"], ["scheduler.eta=1", "at least 2"]),
    ([*RUN, "scheduler=asha", "scheduler.eta=1"], ["scheduler.eta=1", "at least 2"]),
    ([*RUN, "scheduler=pbt", "scheduler.quantile=0.7"], ["scheduler.quantile=0.7", "at most 0.5"]),
    ([*RUN, "scheduler=pbt", "scheduler.interval=0"], ["scheduler.interval=0", "at least 1"]),
    ([*RUN, "scheduler=pbt", "scheduler.perturb=[z]"], ["scheduler.perturb: z", "searched are x, y, kind"]),
    ([*RUN, "scheduler=pbt", "budget.trials=1"], ["budget.trials=1", "population"]),
    ([*RUN, "scheduler=pbt", "space.x=1", "space.y=1"], ["no searched number to perturb"]),
    ([*RUN, "seeds=0"], ["seeds=0", "at least 1"]),
    ([*RUN, "seed=-1"], ["seed=-1", "at least 0"]),
    ([*RUN, "data=moon"], ["data=moon", "bowl"]),
    (
        ["run", "trainable=test_picky", "data=bowl2", "space.kind=b"],
        ["data=bowl2: test_picky: kind=b needs arcs, and the bowl is round"],
    ),
    (
        [
            "run",
            "trainable=test_picky",
            "data=bowl2",
            "search=listed",
            "search.configs=[{kind: a},{kind: b}]",
        ],
        ["data=bowl2: test_picky: kind=b needs arcs"],
    ),
    (["run", "trainable=test_picky", "data=bowl3"], ["data=bowl3: data_dir is None"]),
    ([*RUN, "data_dir=/no/such/folder"], ["data_dir=/no/such/folder", "no such folder"]),
    ([*RUN, "name=../evil"], ["name=../evil", "letters"]),
    ([*RUN, "space.z.high=1"], ["z", "test_bowl"]),
    ([*RUN, "space.x.hihg=1"], ["hihg", "high"]),
    ([*RUN, "space.x.low=2"], ["x", "low", "2"]),
    ([*RUN, "space.x.log=true"], ["x", "log", "0"]),
    ([*RUN, "space.kind=c"], ["kind", "c"]),
    ([*RUN, "space.kind.choices=[]"], ["kind", "choices"]),
    ([*RUN, "space.y=1.5"], ["y", "1.5"]),
    ([*RUN, "space.x=0.1", "space.y=1", "space.kind=a"], ["budget.trials=20", "fixed"]),
    ([*RUN, "budget.trials"], ["budget.trials", "key=value"]),
    ([*RUN, "keep_checkpoints=some"], ["keep_checkpoints=some", "best"]),
    ([*RUN, "tracking=comet"], ["tracking=comet", "wandb"]),
    ([*RUN, "cluster.cpus_per_trial=0"], ["cluster.cpus_per_trial=0", "above 0"]),
    ([*RUN, "storage="], ["storage"]),
    ([*RUN, "storage=s3:/bucket/sweeps"], ["storage=s3:/bucket/sweeps", "did you mean s3://bucket/sweeps?"]),
    ([*RUN, "storage=memory://sweeps"], ["storage=memory://sweeps", "lost", "folder"]),
    ([*RUN, "storage=foo://sweeps"], ["storage=foo://sweeps"]),
    (["ls", "--storage", "gs:/bucket"], ["storage=gs:/bucket", "did you mean gs://bucket?"]),
    ([*RUN, "space.x=0.1,0.2"], ["space.x=0.1,0.2", "'search.configs=[{x: 0.1},{x: 0.2}]'", "choices"]),
    ([*RUN, "space.kind.choices=a,b"], ["space.kind.choices=a,b", "'space.kind.choices=[a,b]'"]),
    ([*RUN, "space.kind=[a,b"], ["space.kind=[a,b", "\"space.kind='[a,b'\""]),
    ([*RUN, "space.kind=#a"], ["space.kind=#a", "quotes"]),
    ([*RUN, "space.kind=${y}"], ["space.kind", "'y' not found", "looked up"]),
    ([*RUN, "search=tpe,random"], ["search=tpe,random", "takes one", "once for each"]),
    ([*RUN, "budget=3"], ["budget=3", "laptop"]),
    ([*RUN, "+size=3"], ["+size=3", "key=value"]),
    ([*RUN, "~search"], ["~search", "key=value"]),
    ([*RUN, "x=0.1"], ["x: no such setting", "did you mean space.x?"]),
    (["run", "experiment=dagnn_cora", "weight_decay=0.1"], ["did you mean space.weight_decay?"]),
    (["nas", "algorithm=pa_da", "lr=0.1"], ["lr: no such setting", "did you mean train.config.lr?"]),
    (["nas", "algorithm=single_path", "lmbda=1"], ["did you mean algorithm.config.lmbda?"]),
    (["nas", "algorithm=oto_v2", "trainable=biper", "omega=3"], ["did you mean train.config.omega?"]),
    ([*RUN, "x.high=0.1"], ["x.high: no such setting", "did you mean space.x.high?"]),
    ([*RUN, "search=random", "search.ahead=3"], ["search.ahead: search=random has no such setting"]),
    ([*RUN, "learning_rate=0.1"], ["learning_rate: no such setting", "fairsweep run --help"]),
    ([*RUN, "space.y=007"], ["y='007'", "decimals"]),
    ([*RUN, "seed=99999999999999999999"], ["seed=99999999999999999999", "2^63 - 1"]),
    ([*RUN, "seed=9223372036854775807", "seeds=2"], ["seed=9223372036854775807", "seeds=2"]),
    ([*RUN, "--fast"], ["--fast", "key=value"]),
    (["info", "dagnnn"], ["dagnnn", "did you mean dagnn"]),
    (["space", "nope"], ["nope"]),
    (["show", "no-such-sweep"], ["no-such-sweep"]),
    (["best", "no-such-sweep"], ["no-such-sweep"]),
    (["export", "no-such-sweep"], ["no-such-sweep"]),
    (["resume", "no-such-sweep"], ["no-such-sweep"]),
    (["export", "kept", "-o", "."], ["--output=.", "is a folder", "kept-results.parquet"]),
    (["resume", "kept", "data_dir=/no/such/folder"], ["data_dir=/no/such/folder", "no such folder"]),
]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    from fairsweep.analysis.store import Store

    folder = tmp_path / "store"
    with Store(folder).create(
        "kept",
        {"paper": "test_bowl", "state": "running", "config": config.load(["trainable=test_bowl"]).to_yaml()},
        config_fields=[],
        metric_names=[],
    ) as w:
        w.close(state="finished")
    return folder


@pytest.mark.parametrize("arguments, words", CASES, ids=[" ".join(a[-1:]) for a, _ in CASES])
def test_one_line_exit_two_store_untouched(
    arguments: list[str], words: list[str], store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(store)
    if arguments[0] in ("run", "nas"):
        if not any(a.startswith("storage=") for a in arguments):
            arguments = [*arguments, f"storage={store}"]
    elif arguments[0] in ("show", "best", "export", "resume"):
        arguments = [*arguments, "--storage", str(store)]
    code = run_cli(arguments)
    err = capsys.readouterr().err.strip()
    assert code == 2, err
    assert len(err.splitlines()) == 1, err
    assert err.startswith("fairsweep: error: ")
    for word in words:
        assert word in err, err
    assert snapshot(store) == before


def test_there_are_at_least_thirty_cases() -> None:
    assert len(CASES) >= 30


def test_a_name_that_is_taken(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = snapshot(store)
    assert run_cli([*RUN, "name=kept", f"storage={store}"]) == 2
    assert "resume kept" in capsys.readouterr().err
    assert snapshot(store) == before


def test_a_sweep_cannot_shrink_or_change_otherwise(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for change, word in (("seeds=3", "budget.trials"), ("budget.trials=+x", "whole number")):
        from fairsweep.analysis.store import Store

        before = snapshot(store)
        assert run_cli(["resume", "kept", change, "--storage", str(store)]) == 2
        assert word in capsys.readouterr().err
        assert snapshot(store) == before
        assert Store(store).has("kept")


def test_a_store_that_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "file"
    path.write_text("not a store")
    assert run_cli([*RUN, f"storage={path}"]) == 2
    assert str(path) in capsys.readouterr().err
    assert path.read_text() == "not a store"
