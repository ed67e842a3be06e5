"""Sweeps on an object store: run, killed, resumed, grown, two writers, a store that does not answer for a minute."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator

import pytest

from fairsweep.analysis.store import Store, StoreError, SweepLocked
from fairsweep.cluster.engine.checkpoints import Checkpoints
from tests import s3
from tests.analysis.test_store import create, report
from tests.cluster.test_crash import finish, start


@pytest.fixture(scope="module")
def bucket() -> Iterator[s3.Bucket]:
    why = s3.missing()
    if why:
        pytest.skip(why)
    with s3.bucket() as made:
        yield made


@pytest.fixture
def uri(bucket: s3.Bucket, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in s3.CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{bucket.endpoint}")  # of s3fs
    return bucket.uri(f"store-{uuid.uuid4().hex[:8]}")


def reports(store: str) -> dict[tuple[str, int], float]:
    rows = Store(store).table("results", "s").to_pylist()
    found = {(r["trial"], r["step"]): r["metric.val_loss"] for r in rows}
    assert len(found) == len(rows), "a report is doubled"
    return found


def wait_for_reports(
    process: subprocess.Popen[str], store: str, more_than: int
) -> dict[tuple[str, int], float]:
    until = time.monotonic() + 90
    while time.monotonic() < until and process.poll() is None:
        if Store(store).has("s") and len(found := reports(store)) > more_than:
            return found
        time.sleep(0.2)
    raise AssertionError(f"no reports: {finish(process)}")


def run(store: str, *words: str) -> subprocess.Popen[str]:
    return start(
        "run", "trainable=test_slow", "name=s", f"storage={store}", "budget.checkpoint_seconds=0.3", *words
    )


@pytest.mark.parametrize("scheme", ["s3", "s3a"])
def test_a_store_on_s3_does_all_of_it(uri: str, scheme: str) -> None:
    if scheme == "s3a":  # s3fs's, by fsspec
        pytest.importorskip("s3fs")
        uri = uri.partition("?")[0].replace("s3://", "s3a://")
    with create(uri) as w:
        w.seal_every = 1e9
        for step in range(20):
            w.results([report(step)])
            w.event("tell", step=step)
            w.seal()
        assert Store(uri).table("results", "s").num_rows == 20
        with pytest.raises(SweepLocked, match=f"process {os.getpid()} on "):
            Store(uri).open("s")
    assert Store(uri).written("s") is False
    with Store(uri).open("s") as w:
        w.results([report(20)])
        w.close(state="finished")
    assert Store(uri).table("results", "s").column("step").to_pylist() == list(range(21))
    assert [e["step"] for e in Store(uri).read("s").events] == list(range(20))
    assert Store(uri).sweeps() == ["s"]
    kept = Checkpoints(Store(uri).checkpoint_dir("s"))
    for step in (1, 2, 3):
        kept.save("t", step, {"step": step, "paper": {}}, plain=True)
    assert kept.steps("t") == [2, 3] and kept.load("t") == {"step": 3, "paper": {}}
    assert kept.copy("t", "other", 3) and kept.load("other") == kept.load("t")
    kept.delete("t")
    assert kept.steps("t") == [] and list(kept.sizes()) == ["other"]


def test_what_a_store_on_s3_refuses_is_one_line(uri: str, bucket: s3.Bucket) -> None:
    with pytest.raises(StoreError, match=r"^storage=s3://nowhere/store.*[Bb]ucket"):
        create(uri.replace("s3://sweeps/", "s3://nowhere/"))
    bucket.refuse(60)
    try:
        began = time.monotonic()
        with pytest.raises(StoreError, match=r"^storage=s3://sweeps/store.*(SLOW_DOWN|503)"):
            Store(uri).sweeps()
        assert time.monotonic() - began < 20, "a reader does not wait"
    finally:
        bucket.refuse(0)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_sweep_on_s3_is_killed_resumed_and_grown(uri: str) -> None:
    process = run(uri, "budget.trials=60", "budget.steps=24")
    seen = wait_for_reports(process, uri, 20)
    second = start("resume", "s", "--storage", uri)
    readers = [start(*words, "--storage", uri, "--json") for words in (["ls"], ["show", "s"], ["best", "s"])]
    code, _, err = finish(second)
    assert code == 2 and f"sweep s is being written by process {process.pid} on " in err, err
    for reader in readers:
        code, out, err = finish(reader)
        assert code == 0 and json.loads(out), err
    assert process.poll() is None, "the sweep ended before it was killed"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert seen.items() <= reports(uri).items()
    assert "ended abruptly" in Store(uri).notes("s")[0]
    code, _, err = finish(start("resume", "s", "--storage", uri))
    assert code == 0 and "recovered" in err, err
    rows = Store(uri).table("trials", "s").to_pylist()
    assert [t["state"] for t in rows] == ["complete"] * 60
    assert sorted(reports(uri)) == sorted((t["trial"], step) for t in rows for step in range(1, 25))
    assert seen.items() <= reports(uri).items() and not Store(uri).notes("s")
    code, out, err = finish(start("resume", "s", "--storage", uri, "budget.trials=+3", "--json"))
    assert code == 0, err
    assert len(Store(uri).table("trials", "s")) == 63 and json.loads(out)["state"] == "finished"
    best = min(Store(uri).table("trials", "s").to_pylist(), key=lambda t: t["value"])
    kept = Checkpoints(Store(uri).checkpoint_dir("s"))
    assert list(kept.sizes()) == [best["trial"]] and kept.load(best["trial"]) is not None


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_minute_of_503_is_waited_for(uri: str, bucket: s3.Bucket) -> None:
    process = run(uri, "budget.trials=60", "budget.trial_timeout=20")
    seen = wait_for_reports(process, uri, 30)
    bucket.refuse(60)
    code, _, err = finish(start("ls", "--storage", uri))
    assert code == 1 and err.count("\n") == 1 and "SLOW_DOWN" in err, err
    code, _, err = finish(process, 240)
    assert code == 0, err
    assert bucket.refused > 20
    assert "does not answer" in err and "answers again" in err, err
    rows = Store(uri).table("trials", "s").to_pylist()
    assert [(t["state"], t["retries"], t["error"]) for t in rows] == [("complete", 0, None)] * 60
    assert sorted(reports(uri)) == sorted((t["trial"], step) for t in rows for step in range(1, 13))
    assert seen.items() <= reports(uri).items()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_an_interrupt_does_not_wait_for_a_store_that_does_not_answer(uri: str, bucket: s3.Bucket) -> None:
    process = run(uri, "budget.trials=200")
    seen = wait_for_reports(process, uri, 10)
    bucket.refuse(600)
    try:
        time.sleep(3)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        code, _, err = finish(process, 60)
        assert time.monotonic() - began < 30 and code in (1, 130), err
        assert "goes on" in err and "Traceback" not in err, err
    finally:
        bucket.refuse(0)
    assert seen.items() <= reports(uri).items()
    code, _, err = finish(start("resume", "s", "--storage", uri, "budget.minutes=+0.4"))
    assert code == 0 and seen.items() <= reports(uri).items(), err
    assert Store(uri).table("sweeps", "s").to_pylist()[0]["closed"]
