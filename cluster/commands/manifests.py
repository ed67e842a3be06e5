"""What a cluster is started with, so that a sweep runs there: the verb manifest."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from fairsweep.cluster.commands import examples
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.masking import masked_words

EXAMPLES = (
    "fairsweep manifest slurm --nodes 4 --cpus 16 --gpus 2 --partition gpu --activate 'source ~/venv/bin/activate' \\\n"
    "      run trainable=dagnn storage=/shared/sweeps budget.trials=200 cluster.gpus_per_trial=0.5 > sweep.sh",
    "fairsweep manifest kuberay --image me/fairsweep --nodes 3 run trainable=dagnn storage=s3://bucket/sweeps",
)
KINDS = {
    "slurm": "a batch script: sbatch FILE",
    "kuberay": "a RayJob of KubeRay 1.5.1 or newer, in token mode: kubectl create -f FILE",
    "ray-up": "a cluster of `ray up`, on AWS or on machines of your own (--head, --workers, --user)",
    "dockerfile": "an image with fairsweep, for kuberay",
}
# option -> the kinds that have it (empty: all that run something), and what `add_argument` is told
OPTIONS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "nodes": ((), {"type": int, "default": 2, "help": "that run trials (2)"}),
    "max-nodes": (("kuberay", "ray-up"), {"type": int, "help": "to which an autoscaler may go"}),
    "cpus": ((), {"type": int, "default": 4, "help": "of each node (4)"}),
    "gpus": ((), {"type": int, "default": 0, "help": "of each node (0)"}),
    "memory": (("slurm", "kuberay"), {"help": "of each node, such as 16Gi"}),
    "time": (("slurm", "kuberay"), {"default": "24:00:00", "help": "limit (24:00:00)"}),
    "name": ((), {"help": "of the cluster (by default after the sweep)"}),
    "image": (
        ("kuberay", "ray-up", "dockerfile"),
        {"help": "that all nodes run, or (dockerfile) that it is made from"},
    ),
    "claim": (("kuberay",), {"help": "a volume claim that holds the store"}),
    "partition": (("slurm",), {"help": "of SLURM"}),
    "account": (("slurm",), {"help": "of SLURM"}),
    "log": (("slurm",), {"help": "file of the output, with SLURM's %%j for the job (slurm-%%j.out)"}),
    "activate": (
        ("slurm", "ray-up"),
        {"default": "", "help": "command that makes the environment, on every node"},
    ),
    "head": (("ray-up",), {"metavar": "HOST", "help": "machine of your own that leads"}),
    "workers": (("ray-up",), {"metavar": "HOSTS", "help": "machines of your own, with commas between"}),
    "user": (("ray-up",), {"help": "who logs in on them"}),
    "region": (("ray-up",), {"default": "us-west-2", "help": "of AWS (us-west-2)"}),
    "type": (("ray-up",), {"help": "of AWS machines"}),
}


def register(add: Any) -> None:
    """Adds the verbs of this file. add: see `cluster.cli`."""
    verb = add("manifest", _manifest, "what SLURM, KubeRay or `ray up` is given to run a sweep", json=False)
    examples(verb, *EXAMPLES)
    kinds = verb.add_subparsers(dest="kind", metavar="KIND", required=True)
    for kind, text in KINDS.items():
        p = kinds.add_parser(kind, help=text, description=text, allow_abbrev=False)
        p.add_argument("--output", "-o", metavar="FILE", help="instead of standard output")
        for option, (of_kinds, told) in OPTIONS.items():
            if kind in of_kinds or (not of_kinds and kind != "dockerfile"):
                p.add_argument(f"--{option}", **told)
        if kind != "dockerfile":
            p.usage = f"fairsweep manifest {kind} [options] run trainable=... storage=... [key=value ...]"
            p.add_argument(
                "words", nargs=argparse.REMAINDER, metavar="run ...", help="what runs: verb and settings"
            )


def _check_order(kind: str, words: Sequence[str]) -> None:
    """UserError for an option of the manifest behind the verb, be it misspelt, where it would be one of the verb's."""
    own = [
        option for option, (kinds, _) in OPTIONS.items() if option != "name" and (not kinds or kind in kinds)
    ]
    for word in words[1:]:
        close = get_close_matches(word[2:].partition("=")[0], own, n=1, cutoff=0.75)
        if word.startswith("--") and close:
            raise UserError(
                f"{word}: options of the manifest stand before {words[0]}: "
                f"fairsweep manifest {kind} --{close[0]} {close[0].upper()} {words[0]} ..."
            )


def _manifest(args: argparse.Namespace, rest: list[str]) -> int:
    from fairsweep.cluster.service.manifests import Wanted, manifest

    said = {name: value for name, value in vars(args).items() if name.replace("_", "-") in OPTIONS}
    said |= {"most": said.pop("max_nodes", None), "output": said.pop("log", None)}
    said["workers"] = tuple(filter(None, (said.get("workers") or "").split(",")))
    words = getattr(args, "words", [])
    _check_order(args.kind, words)
    text = manifest(args.kind, Wanted(words=tuple(words[1:] if words[:1] == ["--"] else words), **said))
    if args.kind in ("slurm", "kuberay") and masked_words(words) != list(words):
        print(
            "fairsweep: warning: the manifest holds the secrets among its words; keep it to yourself, or have the "
            "nodes find them in their environment",
            file=sys.stderr,
        )
    if args.output is None:
        print(text, end="")
        return 0
    try:
        with open(args.output, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(text)
    except OSError as error:
        raise UserError(f"--output {args.output}: {error.strerror}") from None
    print(f"wrote {args.output}", file=sys.stderr)
    return 0
