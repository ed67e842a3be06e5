"""Papers: list, info, space, new-paper."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairsweep.cluster.errors import UserError


def register(add: Any) -> None:
    """Adds the verbs of this file. add: see `cluster.cli`."""
    add("list", _list, "the papers that can be tuned")
    p = add("info", _info, "a paper or a trainable of your own: data sets, metrics, space, claims")
    _what(p)
    p = add("new-paper", _new_paper, "write the skeleton of a paper into this checkout")
    p.add_argument("slug")
    p.add_argument("--room", default="vision", help="folder of trainables/ (vision)")
    p.add_argument("--title", help="of the paper")
    p = add("space", _space, "a search space for other tools", json=False)
    _what(p)
    p.add_argument("--to", choices=["yaml", "optuna", "wandb"], default="yaml")


def _what(p: argparse.ArgumentParser) -> None:
    p.add_argument("slug", help="of a paper, or file.py:name, package.module:name")
    p.add_argument(
        "settings", nargs="*", metavar="KEY=VALUE", help="metric= and mode= of a trainable of your own"
    )


def _asked(args: argparse.Namespace) -> tuple[Any, Any]:
    """What is known of the trainable that is asked for, and its space."""
    from fairsweep.trainables import catalog, index

    _know_tune(args.slug)
    if not args.settings:
        return index.entry(args.slug), catalog.space_of(args.slug)
    from fairsweep.cluster import objectives

    raw: dict[str, Any] = {"metric": None, "mode": None}
    for word in args.settings:
        key, _, value = word.partition("=")
        if key not in raw or not value or ":" not in args.slug:
            raise UserError(f"{word}: {args.command} takes metric= and mode= of a trainable of your own only")
        raw[key] = value[1:-1].split(",") if value[0] == "[" and value[-1] == "]" else value
    made = catalog.get(args.slug, objectives.said(raw))
    return index.of(made), made.space()


def _list(args: argparse.Namespace, rest: list[str]) -> int:
    from fairsweep.analysis import report
    from fairsweep.trainables import catalog, index

    papers = [index.entry(slug) for slug in catalog.slugs()]
    rows = [{"slug": p.slug, "task": p.task, "data": p.datasets[0], "title": p.title} for p in papers]
    if args.json:
        report.print_json(rows)
    else:
        report.show_rows(rows, ["slug", "task", "data", "title"])
    return 0


def _know_tune(reference: str) -> None:
    """Makes Ray Tune's trainables known, where it may be one of them."""
    if ":" in reference:
        from fairsweep.cluster.tune.adapter import register

        register()


def _info(args: argparse.Namespace, rest: list[str]) -> int:
    from fairsweep.analysis import report
    from fairsweep.analysis.report import number

    paper, space = _asked(args)
    fidelity = paper.fidelity
    about = {
        "slug": paper.slug,
        "title": paper.title,
        "citation": paper.citation,
        "task": paper.task,
        "baselines": paper.baselines,
        "datasets": list(paper.datasets),
        "objective": paper.objective,
        "metrics": [{"name": m.name, "mode": m.mode, "split": m.split} for m in paper.metrics],
        "fidelity": {
            "unit": fidelity.unit,
            "minimum": fidelity.minimum,
            "maximum": None if fidelity.endless else fidelity.maximum,
            "paper": dict(paper.paper_steps),
        },
        "claims": list(paper.claims),
        "space": space.to_mapping(),
    }
    if args.json:
        report.print_json(about)
        return 0
    print(f"{paper.slug}: {paper.title}\n{paper.citation}\n")
    print(f"task       {paper.task}\ndata sets  {', '.join(paper.datasets)}   (the first is the default)")
    if paper.baselines:
        print(f"baselines  {paper.baselines}")
    print(f"objective  {paper.objective} ({paper.metric(paper.objective).mode})")
    print(f"metrics    {', '.join(f'{m.name} ({m.split})' for m in paper.metrics)}")
    most = f"{fidelity.minimum} to {fidelity.maximum} x {fidelity.unit}"
    print(f"fidelity   {'as many reports as it makes, or budget.steps' if fidelity.endless else most}")

    def by_data(values: Mapping[str, Any]) -> str:
        return ", ".join(number(v) if k == "default" else f"{k}: {number(v)}" for k, v in values.items())

    if paper.paper_steps:
        print(f"           {by_data(paper.paper_steps)}: the paper's own, unless budget.steps says otherwise")
    for claim in paper.claims:
        print(f"claim      {claim}")

    rows = []
    for name, p in space.parameters.items():
        if p.kind == "boolean":
            domain = "true|false"
        elif p.choices:
            domain = "|".join(map(number, p.choices))
        else:
            domain = f"{number(p.low)} .. {number(p.high)}"
            if p.highs:
                domain += f" ({', '.join(f'{data}: {number(high)}' for data, high in p.highs.items())})"
        scale = "log" if p.log else f"step {p.step}" if p.step else None
        when = ", ".join(f"{k}={'|'.join(map(number, v))}" for k, v in p.when.items()) or None
        own = by_data(p.paper) or None
        rows.append(
            {
                "parameter": name,
                "kind": p.kind,
                "range": f"= {by_data({'default': p.value, **p.values})}" if p.fixed else domain,
                "scale": scale,
                "paper": own,
                "when": when,
                "meaning": p.help or None,
            }
        )
    report.show_rows(rows, ["parameter", "kind", "range", "scale", "paper", "when", "meaning"])
    return 0


def _space(args: argparse.Namespace, rest: list[str]) -> int:
    import yaml

    paper, space = _asked(args)
    if args.to == "yaml":
        print(space.to_yaml(), end="")
        return 0
    space = space.for_data(paper.datasets[0])
    if args.to == "optuna":
        for name, distribution in space.distributions().items():
            print(f"{name}: {distribution}")
    else:
        sweep = space.to_wandb(paper.objective, paper.metric(paper.objective).mode)
        print(yaml.safe_dump(sweep, sort_keys=False), end="")
    return 0


def _new_paper(args: argparse.Namespace, rest: list[str]) -> int:
    from fairsweep.analysis import report
    from fairsweep.cluster.commands.new_paper import write

    files = [str(path) for path in write(args.slug, args.room, args.title, Path.cwd())]
    if args.json:
        report.print_json({"slug": args.slug, "files": files})
    else:
        print("\n".join(files))
        print(f"test it with  python -m pytest tests/trainables -k {args.slug}")
    return 0
