"""Our OTO beside the authors' package only-train-once: which networks each slices correctly, and how long it takes.

The package does not import under today's PyTorch, and fairsweep does not depend on it: it runs as another process in
an environment of its own (Python 3.11), which need not have fairsweep either:

    python3.11 -m venv OTHER
    OTHER/bin/pip install torch==2.1.2 "numpy<2" "onnx<1.17" graphviz pydot packaging pyyaml scipy
    OTHER/bin/pip install --no-deps only_train_once==3.0.1
    python -m tests.benchmarks.bench_oto_package --python OTHER/bin/python [--subsets 3] [--repeats 3] [--full]

(pyyaml and scipy are for the networks' code, packaging is what the package forgets to ask for.)

Both sides get the same weights, batch statistics and inputs. A network is handled correctly if, for every one of
`--subsets` random subsets of its groups, the outputs without them are within 1e-5, or within 1e-4 of the largest
output, of the full network's with them at zero, in eval mode, and something was cut. Each side chooses among its own
groups: ours any number of each component up to 70 %, the package what its `random_set_zero_groups` draws; it is
compared with the full model that it saves. The last column is for networks that fail: the package's documentation
advises to mark the node groups at fault as unprunable, so those are marked that do not pass the check when no other
may go. Every network has a process of its own and `--timeout` seconds.

Times are CPU seconds on one thread, each under its own PyTorch, for networks of a quarter of their widths or with
`--full` as such. Both write the sub-network to a file, as the package always does; ours does not hold it against the
full network first. What had to be marked stays, so of the ViT the package cuts no heads.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fairsweep.search_spaces.pruning import partition, slice_module
from tests.benchmarks.oto_package import TIMED, build, compare, exact, first_line, names, seconds, worst
from tests.search_spaces.pruning.helpers import disturb, zeroed

MODES = {"mode erase": "yes", "h2spg()": "yes", "dhspg()": "yes", "hesso()": "no"}  # what is ours
ROOT = Path(__file__).parents[2]
Answers = dict[str, dict[str, Any]]


def ours(net: nn.Module, x: Tensor, seeds: list[int]) -> dict[str, Any]:
    try:
        found = partition(net, x)
        results = []
        for seed in seeds:
            full, _ = zeroed(net, found, seed)
            results.append(compare(full, slice_module(full, found), x))
        return {"groups": found.size, **worst(results)}
    except Exception as error:
        return {"error": first_line(error)}


def our_speed(net: nn.Module, x: Tensor, repeats: int) -> Answers:
    """Seconds to build a graph, and to slice and save."""
    found = partition(net, x)
    full, kept = zeroed(net, found, 0)
    slicing = partial(slice_module, full, found, kept, "module", check=False)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "small.pt"
        construct = seconds([lambda: torch.save(slicing(), file)] * repeats)
    built = seconds([partial(partition, net, x)] * repeats)
    return {"build": {"seconds": built}, "construct": {"seconds": construct, "groups": found.size}}


def theirs(python: str, timeout: float, net: nn.Module, x: Tensor, **job: Any) -> Answers:
    """What the other environment answers, by kind; "end" is what there is to say where an answer is missing."""
    with tempfile.TemporaryDirectory() as folder:
        job["file"] = str(Path(folder) / "network.pt")
        torch.save({"state": net.state_dict(), "x": x}, job["file"])
        command = [python, "-m", "tests.benchmarks.oto_package", json.dumps(job)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        end = "no answer"
        try:
            out, err = process.communicate(timeout=timeout)
            if process.returncode:
                end = f"exit status {process.returncode}: {([*err.splitlines(), ''])[-2:][0]}"
        except subprocess.TimeoutExpired:
            process.kill()
            out, _ = process.communicate()
            end = f"no answer in {timeout:.0f} s"
    answers = {a.pop("kind"): a for a in map(json.loads, out.splitlines())}
    return answers | {"end": answers.get("load", {"error": end})}


def failure(answer: dict[str, Any]) -> str:
    return f"fails: {answer['error'][:90]}"


def verdict(answer: dict[str, Any]) -> str:
    if "error" in answer:
        return failure(answer)
    if not answer["gone"]:
        return "fails: nothing was cut"
    difference = (
        f"{answer['absolute']:.0e}, {answer['relative']:.0e} of the largest; {answer['groups']} groups"
    )
    return f"{'correct' if exact(answer) else 'another function'}: {difference}"


def cost(answer: dict[str, Any]) -> str:
    if "error" in answer:
        return failure(answer)
    return f"{answer['seconds']:.3f} s" + (f", {answer['groups']} groups" if "groups" in answer else "")


def verdicts(answers: Answers) -> tuple[str, str]:
    """As it comes, and with groups marked."""
    if "load" in answers:
        return f"not loaded there: {answers['load']['error'][:90]}", ""
    plain = verdict(answers.get("plain", answers["end"]))
    return plain, "" if plain.startswith("correct") else verdict(answers.get("marked", answers["end"]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--python", required=True, help="of the environment with only-train-once")
    parser.add_argument("--subsets", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--timeout", type=float, default=300, help="seconds for a network")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--only", choices=["correct", "speed", "modes"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    ask = partial(theirs, options.python, options.timeout)

    def network(name: str, wide: int = 1) -> tuple[nn.Module, Tensor]:
        torch.manual_seed(0)
        net, x = build(name, wide)
        return disturb(net, x), x

    print("network | ours | only-train-once | only-train-once, with what fails alone marked as unprunable")
    seeds = list(range(options.subsets))
    for title, group in zip(("promised", "others, small"), names(), strict=True):
        if options.only not in (None, "correct"):
            continue
        rows = []
        for name in group:
            net, x = network(name)
            answers = ask(net, x, name=name, wide=1, task="correct", seeds=seeds)
            rows.append((verdict(ours(net, x, seeds)), *verdicts(answers)))
            print(" | ".join((name, *rows[-1])), flush=True)
        mine, plain, marked = (sum(row[i].startswith("correct") for row in rows) for i in range(3))
        print(
            f"correct, {title}: ours {mine}, only-train-once {plain}, marked {plain + marked} of {len(rows)}"
        )
    if options.only in (None, "modes"):
        net, x = network("vgg_bn")
        answers = ask(net, x, name="vgg_bn", wide=1, task="modes")
        for kind, has in MODES.items():
            answer = answers.get(kind, answers["end"])
            print(f"{kind} | {has} | {failure(answer) if 'error' in answer else 'runs'}")
    for name in TIMED if options.only in (None, "speed") else ():
        wide = 1 if options.full else 4
        net, x = network(name, wide)
        answers = ask(net, x, name=name, wide=wide, task="speed", repeats=options.repeats)
        for kind, own in our_speed(net, x, options.repeats).items():
            peer = answers.get(kind, answers["end"])
            ratio = f" | ratio {own['seconds'] / peer['seconds']:.2f}" if "seconds" in peer else ""
            print(f"{name}, {kind} | {cost(own)} | {cost(peer)}{ratio}", flush=True)


if __name__ == "__main__":
    main()
