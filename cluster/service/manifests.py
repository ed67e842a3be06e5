"""Manifests of clusters: what `ray up`, KubeRay and SLURM are given so that a sweep runs there.

Each is a file of cluster/manifests/ with places @{like_this}. A line whose places are all empty is left out, so that
what was not asked for (GPUs, an account) is not there; where a place stands alone in its line it may bring several.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fairsweep.cluster.checks import hint
from fairsweep.cluster.engine import nodes
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs import provenance
from fairsweep.cluster.jobs.comparing.methods import bare
from fairsweep.cluster.masking import masked, masked_uri, masked_words
from fairsweep.search_spaces._parameter import hydra_word

FOLDER = Path(__file__).parents[1] / "manifests"
KINDS = ("ray-up", "kuberay", "slurm", "dockerfile")
RUNS = ("run", "nas", "compare", "claims", "resume")  # verbs that a cluster is for
COMPOSED = ("run", "nas")  # of these, those whose words Hydra reads
PLACE = re.compile(r"@\{(\w+)\}")
NAME = re.compile(
    "[a-z]([a-z0-9-]{0,38}[a-z0-9])?"
)  # of Kubernetes, shortened: it is continued with a suffix
MEMORY = re.compile("[1-9][0-9]*(Mi|Gi|Ti)")
SPACELESS = (
    "partition",
    "account",
    "log",
    "image",
    "claim",
)  # stand bare in a line that is read word by word
TIME = re.compile("([0-9]+-)?[0-9]{1,2}:[0-9]{2}:[0-9]{2}")
WARNING_S = 180  # before the time limit of SLURM, at which a sweep is told to end


@dataclass(frozen=True)
class Wanted:
    """What is asked for. words: of the sweep, its verb first; most: nodes to which an autoscaler may go."""

    words: tuple[str, ...] = ()
    name: str | None = None
    nodes: int = 2
    most: int | None = None
    cpus: int = 4
    gpus: int = 0
    memory: str | None = None
    time: str = "24:00:00"
    image: str | None = None
    claim: str | None = None  # the volume claim that holds the store
    partition: str | None = None
    account: str | None = None
    output: str | None = None
    activate: str = ""  # a command that makes the environment
    head: str | None = None
    workers: tuple[str, ...] = ()
    user: str | None = None
    region: str = "us-west-2"
    type: str | None = None


def manifest(kind: str, wanted: Wanted) -> str:
    """The text of a manifest. UserError, naming the option, for what cannot be."""
    if kind not in KINDS:
        raise UserError(f"manifest {kind}: {hint(kind, KINDS)}")
    _check_texts(wanted)
    if kind == "dockerfile":
        return filled(
            "Dockerfile",
            {**_about("An image for clusters"), "image": wanted.image or base_image(wanted.gpus)},
        )
    _check(wanted)
    words, storage = sweep_of(kind, wanted)
    return {"slurm": _slurm, "kuberay": _kuberay, "ray-up": _ray_up}[kind](wanted, words, storage)


def filled(template: str, values: Mapping[str, Any]) -> str:
    """A file of `FOLDER` with its places filled in."""
    lines = []
    for line in (FOLDER / template).read_text().splitlines():
        names = PLACE.findall(line)
        texts = [str(values[name]) for name in names]
        if names and not any(texts):
            continue
        if names and line.strip() == f"@{{{names[0]}}}":
            indent = line[: len(line) - len(line.lstrip())]
            lines += [f"{indent}{each}".rstrip() for each in texts[0].splitlines()]
        else:
            lines.append(PLACE.sub(lambda match: str(values[match[1]]), line))
    return "\n".join(lines) + "\n"


def _about(title: str) -> dict[str, str]:
    return {"title": title, "ray": version("ray"), "fairsweep": provenance.revision()}


def base_image(gpus: int) -> str:
    """Ray's own image for the Python of this machine."""
    major, minor, _ = platform.python_version_tuple()
    return f"rayproject/ray:{version('ray')}-py{major}{minor}" + ("-gpu" if gpus else "")


# -- what is asked for ------------------------------------------------------------------------------------


def _check(wanted: Wanted) -> None:
    for option, value, low in (
        ("nodes", wanted.nodes, 1),
        ("cpus", wanted.cpus, 1),
        ("gpus", wanted.gpus, 0),
    ):
        if value < low:
            raise UserError(f"--{option} {value}: must be a whole number of at least {low}")
    if wanted.most is not None and wanted.most < wanted.nodes:
        raise UserError(f"--max-nodes {wanted.most}: must be at least --nodes, {wanted.nodes}")
    if wanted.name is not None and not NAME.fullmatch(wanted.name):
        raise UserError(
            f"--name {wanted.name}: must be at most 40 small letters, digits and dashes, and begin with a letter"
        )
    if wanted.memory is not None and not MEMORY.fullmatch(wanted.memory):
        raise UserError(f"--memory {wanted.memory}: must be a number with a unit, such as 16Gi")
    if not TIME.fullmatch(wanted.time):
        raise UserError(
            f"--time {wanted.time}: must be hours, minutes and seconds, such as 24:00:00, or 2-12:00:00"
        )


def _check_texts(wanted: Wanted) -> None:
    """UserError for text that would not stay in its place: the rest of a line, also of a comment, is read as commands.

    YAML takes U+2028 for the end of a line, too.
    """
    for option in (
        "partition",
        "account",
        "log",
        "image",
        "claim",
        "activate",
        "head",
        "user",
        "region",
        "type",
    ):
        text = getattr(wanted, "output" if option == "log" else option) or ""
        if not text.isprintable():
            raise UserError(f"--{option}={text!a}: must be one line, without signs that cannot be seen")
        if option in SPACELESS and re.search("[ ;#'\"]", text):
            raise UserError(f"--{option}={text}: must be one word, without spaces, quotes, ; and #")
    for word in (*wanted.words, *wanted.workers):
        if not word.isprintable():
            raise UserError(f"{masked(word)!a}: must be one line, without signs that cannot be seen")


def sweep_of(kind: str, wanted: Wanted) -> tuple[list[str], str]:
    """The words of the sweep, checked as far as this machine can, and where its store is."""
    words = list(wanted.words)
    if words and words[0] in COMPOSED:
        words = _with_storage(words)
    if not words:
        raise UserError(
            f"manifest {kind}: what is to run is missing: run trainable=... storage=... after the options"
        )
    if words[0] not in RUNS:
        raise UserError(f"manifest {kind} {words[0]}: {hint(words[0], RUNS)}")
    storage = _storage(kind, words)
    _check_fits(words, wanted)
    return words, storage


def _with_storage(words: Sequence[str]) -> list[str]:
    """The words with the store as `storage=VALUE`, as Hydra reads it where the verb composes settings."""
    found, left = [], list(words)
    while left:
        word = left.pop(0)
        if word.startswith("--storage=") or (word == "--storage" and left):
            value = left.pop(0) if word == "--storage" else word.partition("=")[2]
            word = f"storage={hydra_word(value) if words[0] in COMPOSED else value}"
        found.append(word)
    return found


def _value(words: Sequence[str], key: str) -> str | None:
    """What a setting says, the last time that it is given: without the quotes of Hydra's, where the verb reads them."""
    given = [word.partition("=")[2] for word in words if word.startswith(f"{key}=")]
    return None if not given else bare(given[-1]) if words[0] in COMPOSED else given[-1]


def _storage(kind: str, words: Sequence[str]) -> str:
    given = _value(_with_storage(words), "storage")
    if given is None:
        raise UserError(
            f"manifest {kind}: storage= is missing: a folder that all nodes see, by its path from the root, or object "
            "storage such as s3://bucket/path"
        )
    if "://" not in given and not os.path.isabs(given):
        raise UserError(
            f"storage={given}: must be a path from the root, or a URI: nodes have other working directories"
        )
    return given


def _check_fits(words: Sequence[str], wanted: Wanted) -> None:
    """UserError for settings that the sweep would refuse, and for trials that fit on no node."""
    if words[0] not in COMPOSED:
        return
    from fairsweep.cluster import config
    from fairsweep.cluster.jobs.nas import config as nas_config

    settings = (config if words[0] == "run" else nas_config).load(
        [w for w in words[1:] if not w.startswith("-")]
    )
    node = {"CPU": float(wanted.cpus), "GPU": float(wanted.gpus)}
    nodes.room(nodes.cluster_of(settings), None, [node] * wanted.nodes)


def _name(wanted: Wanted, words: Sequence[str]) -> str:
    """What the cluster is called."""
    if wanted.name:
        return wanted.name
    given = next((w.partition("=")[2] for w in words if w.startswith(("name=", "trainable="))), words[0])
    plain = re.sub("[^a-z0-9]+", "-", Path(given.partition(":")[0]).stem.lower()).strip("-")[:30].strip("-")
    return plain if NAME.fullmatch(plain) else f"sweep-{plain}".strip("-")


def _shell(words: Sequence[str]) -> str:
    return shlex.join(words)


def _yaml(value: Any) -> str:
    """A value as YAML in one line, which JSON is."""
    return json.dumps(value, ensure_ascii=False)


# -- the kinds --------------------------------------------------------------------------------------------


def _slurm(wanted: Wanted, words: list[str], storage: str) -> str:
    name = _name(wanted, words)
    shell, again = _shell(words), _shell(words)  # the same words go on with a comparison, and a resumed sweep
    if words[0] in COMPOSED:
        given = _value(words, "name")
        if given is None:
            shell += f' "name={name}-$SLURM_JOB_ID"'
        sweep = shlex.quote(given) if given is not None else f'"{name}-$SLURM_JOB_ID"'
        again = f"resume {sweep} --storage {shlex.quote(storage)}"
    return filled(
        "slurm.sh",
        {
            **_about(f"Runs a sweep on {wanted.nodes} nodes of SLURM"),
            "name": name,
            "nodes": wanted.nodes,
            "cpus": wanted.cpus,
            "gpus": wanted.gpus or "",
            "gpus_each": wanted.gpus,
            "memory": (wanted.memory or "").replace("i", ""),
            "time": wanted.time,
            "partition": wanted.partition or "",
            "account": wanted.account or "",
            "output": wanted.output or "slurm-%j.out",
            "warning": WARNING_S,
            "activate": wanted.activate
            or "# module load ..., source .../bin/activate: the same on all nodes",
            "storage": masked_uri(storage),
            "words": shell,
            "again": again,
        },
    )


def _kuberay(wanted: Wanted, words: list[str], storage: str) -> str:
    if not wanted.image:
        raise UserError(
            "manifest kuberay: --image is missing: one that holds fairsweep, for all pods alike; `fairsweep manifest "
            "dockerfile` makes it"
        )
    remote = "://" in storage and not storage.startswith("file:")
    if not remote and not wanted.claim:
        raise UserError(
            f"storage={storage}: is a folder of each pod alone; --claim NAME mounts a volume claim there "
            "(ReadWriteMany), or take object storage such as s3://bucket/path"
        )
    if remote and wanted.claim:
        raise UserError(f"--claim {wanted.claim}: is for a store in a folder, and storage={storage} is none")
    note = f"{masked_uri(storage)}: all pods may write there (a service account, or a Secret as env)."
    if wanted.claim:
        note = f"The volume claim {wanted.claim} (ReadWriteMany) is mounted in all pods, the store is at {storage}."
    path = storage.removeprefix("file://")
    mounts = "" if not wanted.claim else f"volumeMounts:\n  - {{ name: store, mountPath: {_yaml(path)} }}"
    volumes = "" if not wanted.claim else (
        f"volumes:\n  - name: store\n    persistentVolumeClaim: {{ claimName: {_yaml(wanted.claim)} }}"
    )  # fmt: skip
    amounts: dict[str, Any] = {"cpu": str(wanted.cpus), "memory": wanted.memory or f"{4 * wanted.cpus}Gi"}
    if wanted.gpus:
        amounts["nvidia.com/gpu"] = str(wanted.gpus)
    days, _, clock = wanted.time.rpartition("-")
    hours, minutes, seconds = map(int, clock.split(":"))
    return filled(
        "kuberay.yaml",
        {
            **_about(f"Runs a sweep on {wanted.nodes} workers of Kubernetes"),
            "ray_version": _yaml(version("ray")),
            "name": _name(wanted, words),
            "entrypoint": _yaml(_shell(["fairsweep", *words])),
            "again": _shell(["resume", "SWEEP", "--storage", masked_uri(storage)]),
            "seconds": int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds,
            "image": _yaml(wanted.image),
            "nodes": wanted.nodes,
            "least": wanted.nodes if wanted.most is None else 0,
            "most": wanted.most or wanted.nodes,
            "grows": "false" if wanted.most is None else "true",
            "resources": _yaml(amounts),
            "storage_note": note,
            "group": 100,  # of `ray`, whose processes write to the volume
            **{key: mounts for key in ("mounts", "worker_mounts")},
            **{key: volumes for key in ("volumes", "worker_volumes")},
        },
    )


def _ray_up(wanted: Wanted, words: list[str], storage: str) -> str:
    common = {
        "name": _name(wanted, words),
        "storage": masked_uri(storage),
        "words": _shell(masked_words(words)),
        "token": _yaml(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token"),
        "most": wanted.most or wanted.nodes,
    }
    if wanted.head is None and not wanted.workers:
        return filled(
            "ray-up-aws.yaml",
            {**_about("A cluster on AWS that grows with its sweeps"), **common, **_aws(wanted)},
        )
    if wanted.head is None or not wanted.workers or not wanted.user:
        raise UserError(
            "manifest ray-up: machines of your own need --head HOST --workers HOST,HOST and --user NAME"
        )
    hosts = len(wanted.workers)
    before = f"{wanted.activate}; " if wanted.activate else ""
    start = f"{before}ulimit -n 65536; RAY_AUTH_MODE=token ray start"
    return filled(
        "ray-up-local.yaml",
        {
            **_about(f"A cluster of {1 + hosts} machines of your own"),
            **common,
            "most": hosts,
            "head": _yaml(wanted.head),
            "workers": _yaml(list(wanted.workers)),
            "user": _yaml(wanted.user),
            "stop": _yaml(f"{before}ray stop"),
            "start_head": _yaml(
                f"{start} --head --port=6379 --autoscaling-config=~/ray_bootstrap_config.yaml --disable-usage-stats"
            ),
            "start_worker": _yaml(f"{start} --address=$RAY_HEAD_IP:6379 --disable-usage-stats"),
        },
    )


def _aws(wanted: Wanted) -> dict[str, Any]:
    """What is of AWS alone. Where this runs from a checkout, that is what the nodes install."""
    checkout = Path(__file__).parents[2]
    amounts = {"CPU": wanted.cpus, **({"GPU": wanted.gpus} if wanted.gpus else {})}
    install, mount, note = f"pip install 'fairsweep=={version('fairsweep')}'", "", "the release."
    if (checkout / "pyproject.toml").is_file():
        install = "pip install -c ~/fairsweep/constraints.txt ~/fairsweep"
        mount, note = f"~/fairsweep: {_yaml(str(checkout))}", "this checkout, copied there."
    if wanted.image:
        install, mount, note = "fairsweep --version", "", "the image has it."
    return {
        "image": _yaml(wanted.image or base_image(wanted.gpus)),
        "region": _yaml(wanted.region),
        "type": _yaml(wanted.type or ("g5.2xlarge" if wanted.gpus else "m6i.xlarge")),
        "least": 0,
        "resources": _yaml(amounts),
        "install": _yaml(install),
        "source_mount": mount,
        "install_note": note,
    }
