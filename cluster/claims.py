"""The job `claims`: every claim of a paper as a paired sweep; trials -> verdicts.

Treatment and baseline run under the same seeds, on the same split, with the same budget; a claim about a value has
no baseline. The claims of a paper
that share data, budget and seeds share a sweep, in which a configuration that several claims name runs once.
How they are judged is fixed in `analysis.claims`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from analysis import claims as verdicts
from analysis.store import Store
from cluster import config, sweep
from cluster.conductor import now
from cluster.config import Settings
from cluster.display import Display
from cluster.errors import MissingData, UserError
from cluster.local import connected
from search_spaces.space import SpaceError
from trainables import catalog
from trainables.base import Claim, Paper

MIN_SEEDS = 5  # fewer leave a t interval that says nothing; a claim may ask for more


@dataclass(frozen=True)
class Group:
    """Claims of one paper that run as one sweep. `arms`: by claim, treatment and baseline (if it has one), whole."""

    paper: type[Paper]
    claims: tuple[Claim, ...]
    arms: tuple[tuple[dict[str, Any], ...], ...]
    settings: Settings

    @property
    def data(self) -> str:
        return self.settings.data


def plan(
    slugs: Sequence[str],
    name: str,
    storage: str,
    overrides: Sequence[str] = (),
    seed: int = 0,
    seeds: int | None = None,
    only: Sequence[str] = (),
) -> list[Group]:
    """The sweeps that answer the claims of the papers `slugs`. UserError if there is nothing to run.

    seed: the first seed. seeds: pairs of each claim, in place of what it says or `MIN_SEEDS`, the larger.
    only: names of claims, to leave the others out.
    """
    known = {claim.name for slug in slugs for claim in catalog.get(slug).claims}
    for claim_name in only:
        if claim_name not in known:
            raise UserError(f"--only={claim_name}: no such claim; known: {', '.join(sorted(known))}")
    groups = []
    for slug in slugs:
        paper = catalog.get(slug)
        chosen = [
            replace(claim, seeds=seeds or max(claim.seeds, MIN_SEEDS))
            for claim in paper.claims
            if not only or claim.name in only
        ]
        shared: dict[tuple[Any, ...], list[Claim]] = {}
        for claim in chosen:
            shared.setdefault((claim.data or paper.datasets[0], claim.steps, claim.seeds), []).append(claim)
        for number, ((data, steps, count), found) in enumerate(shared.items()):
            words = [
                f"trainable={slug}", "search=listed", f"data={data}", f"seed={seed}", f"seeds={count}",
                f"budget.steps={'null' if steps is None else steps}", f"storage={storage}",
                f"name={name}-{slug}" + (f"-{number + 1}" if len(shared) > 1 else ""), *overrides,
            ]  # fmt: skip
            groups.append(_group(paper, found, data, words))
    if not groups:
        raise UserError(f"claims: {', '.join(slugs)}: declares no claims")
    return groups


def _group(paper: type[Paper], claims: list[Claim], data: str, words: list[str]) -> Group:
    declared = paper.space()
    named = {n: v for claim in claims for arm in claim.arms for n, v in arm.items()}
    space = declared.freed(named)
    # A parameter that another arm sets keeps here what it is fixed at, not the paper's value.
    fixed = {n: p.value for n, p in declared.parameters.items() if p.fixed and n in named}
    arms = []
    for claim in claims:
        try:
            arms.append(tuple(space.fill(arm, data, fixed) for arm in claim.arms))
        except SpaceError as error:
            raise UserError(f"claim {paper.slug}/{claim.name}: {error}") from None
    unique: dict[str, dict[str, Any]] = {json.dumps(arm): arm for of_claim in arms for arm in of_claim}
    tree = config.compose_tree(words)
    raw: Any = config.as_mapping(tree)
    raw["space"] = space.to_mapping()
    raw["search"]["configs"] = list(unique.values())
    raw["budget"]["trials"] = len(unique)
    return Group(paper, tuple(claims), tuple(arms), config.check(raw))


def run(
    groups: Sequence[Group],
    name: str,
    storage: str,
    make_display: Callable[[], Display],
    on_verdicts: Callable[[list[dict[str, Any]]], None] | None = None,
) -> tuple[list[dict[str, Any]], str]:
    """Runs what is not finished yet and judges; the rows of the table `claims`, and the state of the run.

    A run that was interrupted is taken up where it ended if it is given the same name. Verdicts are written
    as they come, beside those of the run on other claims. Claims whose data are missing are left inconclusive.
    """
    store = sweep.open_store(storage)
    rows: list[dict[str, Any]] = []
    asked = {(group.paper.slug, claim.name) for group in groups for claim in group.claims}
    others = [r for r in store.derived("claims", name).to_pylist() if (r["paper"], r["claim"]) not in asked]
    with connected(groups[0].settings.cluster):
        for group in groups:
            known = store.has(group.settings.name)
            if known and store.read(group.settings.name).sweep["state"] == "finished":
                state = "finished"
            elif known:
                state = sweep.resume(storage, group.settings.name, [], make_display()).state
            else:
                try:
                    state = sweep.run(group.settings, make_display()).state
                except MissingData as error:
                    rows += unjudged(group, str(error))
                    store.write_derived("claims", name, [*others, *rows])
                    continue
            if state == "interrupted":
                return rows, state
            found = judge(store, group)
            rows += found
            store.write_derived("claims", name, [*others, *rows])
            if on_verdicts is not None:
                on_verdicts(found)
    return rows, "finished"


def _asked(group: Group) -> list[dict[str, Any]]:
    """A row for each claim of a group, with what is claimed and how it is tried."""
    return [
        {
            "paper": group.paper.slug,
            "claim": claim.name,
            "statement": claim.statement,
            "data": group.data,
            "metric": claim.metric,
            "kind": claim.kind,
            "direction": claim.direction,
            "margin": claim.margin,
            "treatment": json.dumps(arms[0]),
            "baseline": json.dumps(arms[1]) if len(arms) > 1 else None,
            "first_seed": group.settings.seed,
            "seeds": group.settings.seeds,
            "steps": group.settings.budget["steps"],
            "sweep": group.settings.name,
            "judged": now(),
        }
        for claim, arms in zip(group.claims, group.arms, strict=True)
    ]


def unjudged(group: Group, reason: str) -> list[dict[str, Any]]:
    """The claims of a group that could not be tried, and why."""
    nothing = {
        "pairs": 0,
        "effect": None,
        "ci_low": None,
        "ci_high": None,
        "replication": None,
        "cost_s": 0.0,
    }
    return [{**row, **nothing, "verdict": "inconclusive", "reason": reason} for row in _asked(group)]


def judge(store: Store, group: Group) -> list[dict[str, Any]]:
    """The verdicts on the claims of a group from the rows of its sweep."""
    name = group.settings.name
    trials, results = store.table("trials", name), store.table("results", name)
    rows = []
    for row in _asked(group):
        found, cost = verdicts.compare(trials, results, row["treatment"], row["baseline"], row)
        low, high = found.ci95 or (None, None)
        about = {"pairs": found.pairs, "effect": found.effect, "ci_low": low, "ci_high": high, "cost_s": cost}
        judged = {"verdict": found.verdict, "replication": found.replication, "reason": found.reason}
        rows.append({**row, **about, **judged})
    return rows


def with_claims(slugs: Sequence[str]) -> list[str]:
    """`slugs`, or all papers that declare claims if there are none. UnknownPaper for an unknown slug."""
    if slugs:
        return [catalog.get(slug).slug for slug in slugs]
    return [slug for slug in catalog.slugs() if catalog.get(slug).claims]


def statement(row: Mapping[str, Any]) -> str:
    """What was claimed, in one cell: effect, direction and margin."""
    sign = "≥" if row["direction"] == "at_least" else "≤"
    what = {"ratio": f"{row['metric']} ratio", "value": row["metric"]}.get(row["kind"], f"Δ {row['metric']}")
    return f"{what} {sign} {row['margin']:g}"
