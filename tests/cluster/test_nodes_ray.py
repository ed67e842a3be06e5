"""The check of nodes before a sweep, on real machines: namespaces with addresses and folders of their own."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import closing

import pytest

from fairsweep.analysis.store import Store
from tests.nodes import ROOT, Machine, Machines, missing

pytestmark = [
    pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.skipif(missing() is not None, reason=str(missing())),
]  # fmt: skip


def run(machines: Machines, *words: str) -> tuple[int, str]:
    """A sweep from the head: its exit code and what it says."""
    command = ("run", "trainable=test_bowl", "budget.trials=2", f"cluster.address={machines.address}", *words)
    process: subprocess.Popen[str] = machines.fairsweep(machines.head, *command)
    _, said = process.communicate(timeout=150)
    return process.returncode, said


class Mixed(Machines):
    """The third machine has another revision of fairsweep at the same place."""

    def start(self, machine: Machine, command: Sequence[str]) -> subprocess.Popen[str]:
        if machine.name == "machine3":
            where = ROOT / "cluster" / "checks.py"
            changed = self.base / "checks.py"
            changed.write_text(f"{where.read_text()}\n# another revision\n")
            mount = 'mount --bind "$1" "$2"; shift 2; exec "$@"'
            command = ["sh", "-c", mount, "sh", str(changed), str(where), *command]
        return super().start(machine, command)


def test_nodes_that_cannot_run_a_sweep_are_named_before_it_begins() -> None:
    with closing(Mixed(workers=1)) as machines:
        shared = f"storage={machines.storage}"
        alone = machines.base / "ray" / "store"  # Ray's folder is of each machine alone
        code, said = run(machines, f"storage={alone}", "name=blind")
        assert code == 2, said
        assert f"storage={alone}: node 10.213.7.2 (machine2) does not see what is written there here" in said
        assert said.count("\n") == 1

        code, said = run(machines, shared, "name=large", "cluster.cpus_per_trial=2")
        assert code == 2, said
        assert "the cluster's 2 nodes have 2 CPUs and 0 GPUs, but a trial runs on one of them, and" in said
        (machines.head.ray / "data").mkdir()
        code, said = run(machines, shared, f"data_dir={machines.base / 'ray' / 'data'}", "name=dataless")
        assert code == 2 and "data: node 10.213.7.2 (machine2) has no such folder" in said, said

        machines.add()
        code, said = run(machines, shared, "name=mixed")
        assert code == 1, said
        assert "the nodes are not alike: node 10.213.7.3 (machine3) has another fairsweep" in said
        assert said.count("\n") == 1
        assert not machines.storage.exists(), "nothing was written"

        machines.environment["RAY_IGNORE_VERSION_MISMATCH"] = "1"
        code, said = run(machines, shared, "name=meant")
        assert code == 0, said
        assert "the nodes are not alike: node 10.213.7.3 (machine3)" in said
        assert any("not alike" in note for note in Store(machines.storage).notes("meant"))
