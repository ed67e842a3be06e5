"""Manifests against the schemas of those who read them, and a SLURM job on two loopback nodes."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from fairsweep.analysis.store import Store
from fairsweep.cluster.cli import run_cli
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.service.manifests import FOLDER, PLACE, Wanted, base_image, manifest
from tests.cluster.test_cluster import free_port

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
ODD = "budget.trials=6"
RUN = ("run", "trainable=test_bowl", "storage=s3://bucket/sweeps", ODD, "space.x.high=2.0")
# What a RayJob of ours may hold, with the types, patterns and required fields that KubeRay's published definition
# (ray.io_rayjobs.yaml of its operator, v1, 2026-08) has for it; whatever else is unknown here.
RAYJOB = json.loads((Path(__file__).parent / "rayjob.schema.json").read_text())


def read(kind: str, **asked: Any) -> dict[str, Any]:
    found = yaml.safe_load(manifest(kind, Wanted(**{"words": RUN, **asked})))
    assert isinstance(found, dict)
    return found


def test_every_place_of_every_template_is_filled() -> None:
    own = {"head": "a", "workers": ("b", "c"), "user": "me"}
    for kind, more in (
        ("slurm", {}),
        ("kuberay", {"image": "i"}),
        ("ray-up", {}),
        ("ray-up", own),
        ("dockerfile", {}),
    ):
        text = manifest(kind, Wanted(words=RUN, **more))  # type: ignore[arg-type]
        assert not PLACE.search(text) and "None" not in text and text.endswith("\n")
    assert sorted(p.name for p in FOLDER.iterdir()) == [
        "Dockerfile", "kuberay.yaml", "ray-up-aws.yaml", "ray-up-local.yaml", "slurm.sh"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"gpus": 2, "most": 8},
        {"claim": "sweeps", "words": ("nas", "storage=/sweeps", "algorithm=evolution", "supernet=cell")},
        {"words": ("resume", "it's mine", "--storage", "s3://b/s")},
    ],
)
def test_a_rayjob_is_what_kuberays_schema_takes(more: dict[str, Any]) -> None:
    found = read("kuberay", image="registry/fairsweep:1", nodes=3, **more)
    jsonschema.validate(found, RAYJOB)
    cluster = found["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"} and cluster["rayVersion"] == "2.60.0"
    assert shlex.split(found["spec"]["entrypoint"]) == ["fairsweep", *more.get("words", RUN)]
    (workers,) = cluster["workerGroupSpecs"]
    amounts = workers["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert amounts.get("nvidia.com/gpu") == (str(more["gpus"]) if "gpus" in more else None)
    assert (workers["minReplicas"], workers["maxReplicas"]) == ((0, 8) if "most" in more else (3, 3))
    assert cluster["enableInTreeAutoscaling"] is ("most" in more)
    for pod in (cluster["headGroupSpec"], workers):
        spec = pod["template"]["spec"]
        assert ("volumes" in spec) is ("claim" in more)
        assert spec["containers"][0].get("volumeMounts") == (
            [{"name": "store", "mountPath": "/sweeps"}] if "claim" in more else None
        )
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**found, "spec": {**found["spec"], "entryPoint": "x"}}, RAYJOB)


OWN = {
    "head": "10.0.0.5",
    "workers": ("10.0.0.6", "10.0.0.7"),
    "user": "me",
    "activate": ". ~/v/bin/activate",
}


@pytest.mark.parametrize("more", [{}, {"gpus": 1, "most": 8}, {"image": "me/fairsweep:1"}, OWN])
def test_a_cluster_of_ray_up_is_what_rays_schema_takes(more: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import fillout_defaults, validate_config

    found = read("ray-up", **more)
    validate_config(fillout_defaults({**found}))
    assert found["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert found["setup_commands"][0] == "chmod 600 ~/.ray/auth_token"
    starts = [found[f"{kind}_start_ray_commands"][1] for kind in ("head", "worker")]
    assert all("RAY_AUTH_MODE=token ray start" in command for command in starts)
    if more is OWN:
        assert found["provider"] == {
            "type": "local",
            "head_ip": "10.0.0.5",
            "worker_ips": ["10.0.0.6", "10.0.0.7"],
        }
        assert starts[0].startswith(". ~/v/bin/activate; ") and found["max_workers"] == 2
    else:
        assert found["available_node_types"]["trials"]["max_workers"] == more.get("most", 2)
        assert found["docker"]["image"] == more.get("image", base_image(more.get("gpus", 0)))
        install = found["setup_commands"][1]
        assert install == (
            "fairsweep --version"
            if "image" in more
            else "pip install -c ~/fairsweep/constraints.txt ~/fairsweep"
        )
        assert found["file_mounts"].get("~/fairsweep") == (None if "image" in more else str(ROOT))


def test_a_slurm_script_reads_as_bash_and_says_what_was_asked(tmp_path: Path) -> None:
    text = manifest(
        "slurm",
        Wanted(
            words=("run", "trainable=test_bowl", "storage=/shared/my sweeps", "data=null"), nodes=3, cpus=16, gpus=2,
            memory="64Gi", time="1-00:00:00", partition="gpu", account="lab", activate="source ~/venv/bin/activate",
        ),
    )  # fmt: skip
    asked = [line.partition("#SBATCH ")[2] for line in text.splitlines() if line.startswith("#SBATCH")]
    assert asked == [
        "--job-name=test-bowl", "--nodes=3", "--ntasks-per-node=1", "--cpus-per-task=16", "--gpus-per-node=2",
        "--mem=64G", "--time=1-00:00:00", "--partition=gpu", "--account=lab", "--signal=B:TERM@180",
        "--output=slurm-%j.out",
    ]  # fmt: skip
    assert "\nsource ~/venv/bin/activate\n" in text and "--num-gpus=2" in text
    assert (
        """words=(run trainable=test_bowl 'storage=/shared/my sweeps' data=null "name=test-bowl-$SLURM_JOB_ID")"""
        in text
    )
    assert """words=(resume "test-bowl-$SLURM_JOB_ID" --storage '/shared/my sweeps')""" in text
    for each in (text, manifest("slurm", Wanted(words=RUN))):
        (tmp_path / "job.sh").write_text(each)
        subprocess.run(["bash", "-n", str(tmp_path / "job.sh")], check=True)
    plain = manifest("slurm", Wanted(words=RUN))
    assert not any(f"--{word}" in plain for word in ("gpus-per-node", "mem=", "partition", "account"))
    named = manifest("slurm", Wanted(words=(*RUN, "name=mine")))
    assert "words=(resume mine --storage s3://bucket/sweeps)" in named and 'SLURM_JOB_ID")' not in named
    compared = ("compare", "test_bowl", "test_bowl", "storage=/s", "name=c")
    assert manifest("slurm", Wanted(words=compared)).count(f"words=({shlex.join(compared)})") == 2


@pytest.mark.parametrize(
    "said", [["--storage", "/my 'sweeps"], ["--storage=/my 'sweeps"], [r"storage='/my \'sweeps'"]]
)
def test_a_store_is_read_as_its_verb_does(said: list[str]) -> None:
    text = manifest("slurm", Wanted(words=(*RUN[:2], *said, "name='mine.1'")))
    first, again = (
        shlex.split(line.strip()[len("words=(") : -1])
        for line in text.splitlines()
        if line.strip().startswith("words=(")
    )
    assert first == [*RUN[:2], r"storage='/my \'sweeps'", "name='mine.1'"]
    assert again == ["resume", "mine.1", "--storage", "/my 'sweeps"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["slurm"], "what is to run is missing"),
        (["slurm", "ls"], "manifest slurm ls: known: run, nas"),
        (["slurm", *RUN[:2]], "storage= is missing"),
        (["slurm", *RUN[:2], "storage=here"], "storage=here: must be a path from the root"),
        (["slurm", *RUN, "budget.trials=0"], "budget.trials=0"),
        (["slurm", "--cpus", "2", *RUN, "cluster.cpus_per_trial=4"], "so not one trial fits"),
        (["slurm", *RUN, "cluster.gpus_per_trial=1"], "so not one trial fits"),
        (["slurm", "--time", "soon", *RUN], "--time soon: must be hours"),
        (["slurm", "--nodes", "0", *RUN], "--nodes 0: must be"),
        (["kuberay", *RUN], "--image is missing"),
        (
            ["kuberay", "--image", "i", *RUN[:2], "storage=/s"],
            "storage=/s: is a folder of each pod alone; --claim",
        ),
        (["kuberay", "--image", "i", "--claim", "c", *RUN], "--claim c: is for a store in a folder"),
        (["kuberay", "--name", "Über", "--image", "i", *RUN], "--name Über: must be"),
        (
            ["slurm", *RUN, "--nodez", "4"],
            "--nodez: options of the manifest stand before run: fairsweep manifest",
        ),
        (["ray-up", *RUN, "--region=x"], "manifest ray-up --region REGION run ..."),
        (["ray-up", "--head", "a", *RUN], "--workers HOST,HOST and --user NAME"),
        (["kuberay", "--max-nodes", "1", "--image", "i", *RUN], "--max-nodes 1: must be at least --nodes, 2"),
        (["kuberay", "--memory", "16", "--image", "i", *RUN], "--memory 16: must be a number with a unit"),
        # The rest of a line, also of a comment, would be read as commands.
        (["slurm", "--partition", "gpu\ntouch it", *RUN], r"--partition='gpu\ntouch it': must be one line"),
        (["slurm", "--account", "lab --exclusive", *RUN], "--account=lab --exclusive: must be one word"),
        (["slurm", "--log", "my log", *RUN], "--log=my log: must be one word"),
        (["slurm", *RUN[:2], "storage=/s\ntouch it"], r"'storage=/s\ntouch it': must be one line"),
        (
            ["kuberay", "--image", "i", *RUN[:2], "storage=s3://b\u2028spec: 3"],
            r"'storage=s3://b\u2028spec: 3': must",
        ),
        (["ray-up", "resume", "a\nb", "--storage", "s3://b/s"], r"'a\nb': must be one line"),
        (["dockerfile", "--image", "a\nRUN b"], r"--image='a\nRUN b': must be one line"),
    ],
)
def test_what_cannot_be_is_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["manifest", *words]) == 2
    answer = capsys.readouterr()
    assert said in answer.err and answer.err.count("\n") == 1 and answer.out == ""


def test_the_verb_prints_or_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["manifest", "slurm", "--nodes", "3", *RUN]) == 0
    printed = capsys.readouterr().out
    assert "--nodes=3" in printed and "storage=s3://bucket/sweeps" in printed
    file = tmp_path / "job.sh"
    assert run_cli(["manifest", "slurm", "--nodes", "3", "-o", str(file), "--", *RUN]) == 0
    assert file.read_text() == printed
    assert run_cli(["manifest", "dockerfile"]) == 0
    assert f"FROM {base_image(0)}\n" in capsys.readouterr().out
    with pytest.raises(UserError, match="manifest slrum: did you mean slurm"):
        manifest("slrum", Wanted(words=RUN))


def test_secrets_are_in_what_runs_and_nowhere_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*RUN[:2], "storage=s3://id:hush@bucket/sweeps"]
    file = tmp_path / "job.sh"
    assert run_cli(["manifest", "slurm", "-o", str(file), *words]) == 0
    assert "holds the secrets among its words" in capsys.readouterr().err
    assert file.stat().st_mode & 0o777 == 0o600
    said = [line for line in file.read_text().splitlines() if "hush" in line]
    assert [line.split("(")[0].strip() for line in said] == ["words=", "words="]
    assert run_cli(["manifest", "ray-up", *words]) == 0
    assert "hush" not in "".join(capsys.readouterr())


STAND_INS = {
    "scontrol": "#!/bin/bash\n[ \"$1 $2\" = 'show hostnames' ] && printf '%s\\n' 127.0.0.2 127.0.0.3\n",
    # Runs a step here, whichever node it is for, and passes signals on as srun does.
    "srun": '#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n',
}


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a batch script on two nodes, with stand-ins for SLURM's commands."""
    (tmp_path / "bin").mkdir()
    for name, text in STAND_INS.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    return env | {
        "PATH": f"{tmp_path / 'bin'}:{BIN}:{env['PATH']}", "HOME": str(tmp_path / "home"), "SLURM_JOB_ID": "77",
        "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_CPUS_PER_TASK": "2", "PYTHONPATH": str(ROOT),
        "FAIRSWEEP": f"{sys.executable} -m cluster", "FAIRSWEEP_PORT": str(free_port()), "PYTHON": sys.executable,
        "FAIRSWEEP_PLUGINS": "tests.papers", 
        "RAY_TMPDIR": f"/tmp/fairsweep-slurm-{os.getpid()}",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_batch_script_starts_two_nodes_and_runs_a_sweep_on_them(
    slurm: dict[str, str], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    words = (
        "run",
        "trainable=test_slow",
        f"data_dir={tmp_path}",
        "budget.steps=10",
        f"storage={store}",
        "budget.trials=8",
    )
    (tmp_path / "job.sh").write_text(manifest("slurm", Wanted(words=words, cpus=2)))
    log = tmp_path / "output"
    with log.open("w") as out:
        done = subprocess.run(
            ["bash", str(tmp_path / "job.sh")], env=slurm, cwd=ROOT, stdout=out, stderr=out, timeout=300
        )
    assert done.returncode == 0, log.read_text()
    rows = Store(store).table("trials", "test-slow-77").to_pylist()
    assert [row["state"] for row in rows] == ["complete"] * 8
    assert " 4 at a time" in log.read_text(), "two nodes of two CPUs"
    assert not (tmp_path / "home" / ".fairsweep" / "slurm-77").exists(), "the token is gone"
    assert "7" * 10 not in log.read_text()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_batch_script_that_is_told_to_end_leaves_a_sweep_that_goes_on(
    slurm: dict[str, str], tmp_path: Path
) -> None:
    store, log = tmp_path / "store", tmp_path / "output"
    words = (
        "run",
        "trainable=test_slow",
        f"data_dir={tmp_path}",
        "budget.steps=40",
        f"storage={store}",
        "budget.trials=12",
    )
    (tmp_path / "job.sh").write_text(manifest("slurm", Wanted(words=words, cpus=2)))
    job = ["bash", str(tmp_path / "job.sh")]
    with log.open("w") as out:
        running = subprocess.Popen(job, env=slurm, cwd=ROOT, stdout=out, stderr=out, start_new_session=True)
        until = time.monotonic() + 200
        while not (tmp_path / "trace").exists():
            assert running.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.2)
        running.send_signal(signal.SIGTERM)
        assert running.wait(120) == 130, log.read_text()
    assert Store(store).table("sweeps", "test-slow-77")["state"][0].as_py() == "interrupted"
    again = slurm | {"SLURM_RESTART_COUNT": "1", "FAIRSWEEP_PORT": str(free_port())}
    done = subprocess.run(job, env=again, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = Store(store).table("trials", "test-slow-77").to_pylist()
    assert [row["state"] for row in rows] == ["complete"] * 12
