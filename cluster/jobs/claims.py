"""The job `claims`: every claim of a paper as a paired sweep; trials -> verdicts.

Treatment and baseline run under the same seeds, on the same split, with the same budget; a claim about a value has
no baseline. The claims of a paper that share data, budget and seeds share a sweep, in which a configuration that
several claims name runs once. With `tuned`, each arm is tuned first (`cluster.jobs.claims_tuning`). How they are judged
is fixed in `analysis.claims`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from omegaconf import OmegaConf

from fairsweep.analysis import claims as verdicts
from fairsweep.analysis._derived import CLAIMS
from fairsweep.analysis.store import Store
from fairsweep.cluster import config
from fairsweep.cluster.config import Settings
from fairsweep.cluster.engine.conductor import now
from fairsweep.cluster.engine.local import connected
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs import metrics, submitted, tracked
from fairsweep.cluster.jobs.claims_running import Display, Lines, run_all
from fairsweep.cluster.jobs.claims_tuning import Tuning, listed
from fairsweep.cluster.storage import open_store
from fairsweep.search_spaces.space import Space, SpaceError
from fairsweep.trainables import catalog
from fairsweep.trainables.base import Claim, Paper
from fairsweep.trainables.own.source import is_reference

MIN_SEEDS = 5  # fewer leave a t interval that says nothing; a claim may ask for more
Arms = tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Group:
    """Claims of one paper that run as one sweep. `arms`: by claim, treatment and baseline (if it has one), whole.

    tuning: what each arm may become before the paired sweep, whose name in the tables of the store it carries; None
    if they run as they are.
    """

    paper: type[Paper]
    claims: tuple[Claim, ...]
    arms: tuple[Arms, ...]
    settings: Settings
    tuning: Tuning | None = None

    @property
    def data(self) -> str:
        return self.settings.data

    def with_arms(self, arms: Sequence[Arms]) -> Group:
        """The same claims with other configurations in their arms."""
        return replace(self, arms=tuple(arms), settings=listed(self.settings, distinct(arms)))


def plan(
    slugs: Sequence[str],
    name: str,
    storage: str,
    overrides: Sequence[str] = (),
    seed: int = 0,
    seeds: int | None = None,
    only: Sequence[str] = (),
    tuned: int = 0,
) -> list[Group]:
    """The sweeps that answer the claims of the papers `slugs`. UserError if there is nothing to run.

    seed: the first seed. seeds: pairs of each claim, in place of what it says or `MIN_SEEDS`, the larger.
    only: names of claims, to leave the others out. tuned: configurations that each arm is chosen from on validation
    data, its own among them; 0 or 1: its own alone.
    """
    known = {claim.name for slug in slugs for claim in catalog.get(slug).claims}
    for claim_name in only:
        if claim_name not in known:
            raise UserError(f"--only={claim_name}: no such claim; known: {', '.join(sorted(known))}")
    groups = []
    for slug in slugs:
        paper = catalog.get(slug)
        shared: dict[tuple[Any, ...], list[Claim]] = {}
        for claim in paper.claims:
            claim = replace(claim, seeds=seeds or max(claim.seeds, MIN_SEEDS))
            shared.setdefault((claim.data or paper.datasets[0], claim.steps, claim.seeds), []).append(claim)
        # Numbered before `only`, so that a sweep keeps its name.
        for number, ((data, steps, count), of_sweep) in enumerate(shared.items()):
            found = [claim for claim in of_sweep if not only or claim.name in only]
            if not found:
                continue
            words = [
                f"trainable={slug}", "search=listed", f"data={data}", f"seed={seed}", f"seeds={count}",
                f"budget.steps={'null' if steps is None else steps}", f"storage={storage}",
                f"name={name}-{paper.slug}" + (f"-{number + 1}" if len(shared) > 1 else ""), *overrides,
            ]  # fmt: skip
            groups.append(_group(paper, found, data, words, tuned))
    if not groups:
        raise UserError(f"claims: {', '.join(slugs)}: declares no claims")
    return groups


def _group(paper: type[Paper], claims: list[Claim], data: str, words: list[str], tuned: int) -> Group:
    declared = paper.space()
    named = {n: v for claim in claims for arm in claim.arms for n, v in arm.items()}
    if tuned > 1:
        named |= {n: None for claim in claims for n in claim.tunes if n not in named}
    space = declared.freed(named)
    # A parameter that another arm sets keeps here what it is fixed at, not the paper's value.
    fixed = {n: p.value_for(data) for n, p in declared.parameters.items() if p.fixed and n in named}
    arms = []
    for claim in claims:
        try:
            arms.append(tuple(space.fill(arm, data, fixed) for arm in claim.arms))
        except SpaceError as error:
            raise UserError(f"claim {paper.slug}/{claim.name}: {error}") from None
    raw: Any = config.as_mapping(config.compose_tree(words))
    raw["space"] = space.to_mapping()
    raw["search"]["configs"] = distinct(arms)
    raw["budget"]["trials"] = len(raw["search"]["configs"])
    group = Group(paper, tuple(claims), tuple(arms), config.check(raw))
    if tuned <= 1 or not any(claim.tunes for claim in claims):
        return group
    return replace(group, tuning=_tuning(group, space, fixed, tuned))


def _tuning(group: Group, space: Space, fixed: Mapping[str, Any], trials: int) -> Tuning:
    """What the arms of a group are chosen from, and the sweep in which they are compared."""
    candidates = tuple(
        tuple(space.redrawn(arm, claim.tunes, trials, group.settings.seed, group.data, fixed) for arm in arms)
        for claim, arms in zip(group.claims, group.arms, strict=True)
    )
    return Tuning.of(group.settings, candidates, group.paper)


def distinct(arms: Sequence[Arms]) -> list[dict[str, Any]]:
    """The configurations of all arms, each once, in their order."""
    return list({json.dumps(arm): arm for of_claim in arms for arm in of_claim}.values())


def run(
    groups: Sequence[Group], name: str, storage: str, quiet: bool = False
) -> tuple[list[dict[str, Any]], str]:
    """Runs what is not finished yet and judges; the rows of the table `claims`, and the state of the run.

    A run that was interrupted is taken up where it ended if it is given the same name. Verdicts are written
    as they come, beside those of the run on other claims. Claims whose data are missing are left inconclusive.
    """
    store = open_store(storage)
    rows: dict[int, list[dict[str, Any]]] = {}  # in the order of the groups, whichever ends first
    asked = {(group.paper.slug, claim.name) for group in groups for claim in group.claims}
    earlier = [_of_today(r) for r in store.derived("claims", name).to_pylist()]
    others = [r for r in earlier if (r["paper"], r["claim"]) not in asked]
    display = Display() if quiet else Lines(name, len(groups))

    def found() -> list[dict[str, Any]]:
        return [row for number in sorted(rows) for row in rows[number]]

    def judged(number: int, of_group: list[dict[str, Any]]) -> None:
        rows[number] = of_group
        store.write_derived("claims", name, [*others, *found()])
        display.judged(of_group)

    left = [_Left(store, group, partial(judged, k)) for k, group in enumerate(groups)]
    first = groups[0].settings
    metrics.check(first)
    tracked.check(first)
    for part in (part for group in groups for part in (group.tuning, group) if part is not None):
        store.check_free(str(part.settings.name))
    with connected({**first.cluster, "concurrent": first.budget["concurrent"]}):
        submitted.enter(store, name)
        state = run_all(store, left, first, display, f"fairsweep claims ... --name {name}", name)
    return found(), state


class _Left:
    """What is left of a group: its tuning, its paired sweep, and then its verdicts, for which `judged` is called."""

    def __init__(self, store: Store, group: Group, judged: Callable[[list[dict[str, Any]]], None]) -> None:
        self.store, self.group, self.judged = store, group, judged
        self.tuning, self.over = group.tuning, False

    def next_sweep(self) -> Settings | None:
        """See `claims_running.Asked`. UserError if the store has another one of its name."""
        if self.over:
            return None
        settings = self.tuning.settings if self.tuning is not None else self.group.settings
        if self.store.has(settings.name):
            row = self.store.read(settings.name).sweep
            _check_same(settings, config.as_mapping(OmegaConf.create(row["config"])))
        return settings

    def ended(self) -> None:
        if self.tuning is not None:
            chosen = self.tuning.choose(self.store.table("trials", self.tuning.settings.name))
            self.group, self.tuning = self.group.with_arms(chosen), None
            return
        self._judge(judge(self.store, self.group))

    def impossible(self, why: str) -> None:
        self._judge(unjudged(self.group, why))

    def _judge(self, rows: list[dict[str, Any]]) -> None:
        self.over = True
        self.judged(rows)


def _check_same(settings: Settings, stored: Mapping[str, Any]) -> None:
    """UserError if the sweep that the store has under this name is not the one that is asked for, or has less in it."""
    asked = settings.tree
    for path in ("seed", "seeds", "data", "budget.steps"):
        was, wanted = (config.get(raw, path) for raw in (stored, asked))
        if was != wanted:
            raise UserError(
                f"name: the sweep {settings.name} of the store ran with {path}={was}, and now it would be {wanted};"
                " give the run another name"
            )
    ran = {json.dumps(c) for c in stored["search"]["configs"]}
    if not all(json.dumps(c) in ran for c in asked["search"]["configs"]):
        raise UserError(
            f"name: the sweep {settings.name} of the store ran other configurations; give the run another name"
        )


def _of_today(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the table `claims` in its columns of today: once there was the verdict on the margin alone."""
    found: dict[str, Any] = {name: row.get(name) for name in CLAIMS.names}
    for was in ("verdict", "replication"):
        found[f"size_{was}"] = found[f"size_{was}"] or row.get(was)
    return found


def _asked(group: Group) -> list[dict[str, Any]]:
    """A row for each claim of a group, with what is claimed and how it is tried."""
    tuning = group.tuning.settings.name if group.tuning is not None else None
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
            "null": claim.null,
            "origin": claim.origin,
            "why_margin": claim.reason or None,
            "treatment": json.dumps(arms[0]),
            "baseline": json.dumps(arms[1]) if len(arms) > 1 else None,
            "first_seed": group.settings.seed,
            "seeds": group.settings.seeds,
            "steps": group.settings.budget["steps"],
            "sweep": group.settings.name,
            "tuning": tuning if claim.tunes else None,
            "judged": now(),
        }
        for claim, arms in zip(group.claims, group.arms, strict=True)
    ]


def unjudged(group: Group, reason: str) -> list[dict[str, Any]]:
    """The claims of a group that could not be tried, and why."""
    empty = ("effect", "ci_low", "ci_high", "direction_replication", "size_replication")
    open_ = {"direction_verdict": "inconclusive", "size_verdict": "inconclusive", "reason": reason}
    return [{**row, **dict.fromkeys(empty), **open_, "pairs": 0, "cost_s": 0.0} for row in _asked(group)]


def judge(store: Store, group: Group) -> list[dict[str, Any]]:
    """The verdicts on the claims of a group from the rows of its sweep."""
    name = group.settings.name
    trials, results = store.table("trials", name), store.table("results", name)
    rows = []
    for row in _asked(group):
        found, left_out, cost = verdicts.compare(trials, results, row["treatment"], row["baseline"], row)
        low, high = found.ci95 or (None, None)
        reason = f"direction: {found.direction.reason}; size: {found.size.reason}"
        if left_out:
            reason += f"; left out: {'; '.join(left_out)}"
        about: dict[str, Any] = {
            "pairs": found.pairs,
            "effect": found.effect,
            "ci_low": low,
            "ci_high": high,
            "cost_s": cost,
        }
        for which, verdict in (("direction", found.direction), ("size", found.size)):
            about |= {f"{which}_verdict": verdict.verdict, f"{which}_replication": verdict.replication}
        rows.append({**row, **about, "reason": reason})
    return rows


def with_claims(slugs: Sequence[str], every: bool = False) -> list[str]:
    """`slugs`, or with `every` all papers that declare claims. UnknownPaper for an unknown slug, UserError for none."""
    if slugs:
        return [slug if is_reference(slug) else catalog.get(slug).slug for slug in slugs]
    declaring = [slug for slug in catalog.slugs() if catalog.get(slug).claims]
    if not every:
        raise UserError(
            f"claims: say of which papers ({', '.join(declaring)}), or --all, which takes most of an hour"
        )
    return declaring


def recorded(store: Store, runs: Sequence[str]) -> list[list[dict[str, Any]]]:
    """The rows of the table `claims` of each of `runs`. UserError for a run that the store has not."""
    found = [[_of_today(r) for r in store.derived("claims", name).to_pylist()] for name in runs]
    for name, rows in zip(runs, found, strict=True):
        if not rows:
            known = sorted(set(store.derived("claims").column("run").to_pylist()))
            raise UserError(
                f"--report={name}: {store.uri} has no claims of this run; {config.hint(name, known)}"
            )
    return found
