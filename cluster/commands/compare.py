"""Which method is best on these data, when all get the same budget? The verb compare."""

from __future__ import annotations

import argparse
import shlex
import sys
from datetime import datetime
from typing import Any

from fairsweep.cluster import DEFAULT_STORAGE
from fairsweep.cluster.commands import of_a_run, quiet
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.masking import masked_uri

PAIRS = 15  # of methods that are shown; of more, those of the leading one
EPILOG = """METHOD is a paper, or a file with names of it, and after colons parameters with one value or several:
  dagnn   dagnn:model=gcn,sgc   biper:weight_mode=fp,ste,biper   train.py:a,b   train.py:a:depth=2,4

task=TASK in their place (or beside methods of yours) is all papers of the task that can take the data, such as
node_classification; those that cannot are said, with the reason:
  task=node_classification data=own data_dir=MINE      task=link_prediction baselines=true

settings of a comparison:
  baselines=true       each paper's published baselines are methods of their own, too
  data=[a,b@FOLDER]    data sets that all methods have (the first that they share); own@FOLDER for data of yours
  seeds=N              searches of each method on each data set, the repeats of the comparison: without it the fewest
                       that can show a winner (two methods on one data set 6, three 7, five 9), at least 5
  retrain=1            trainings of what a search chose, under fresh seeds, each tested once
  on=test_accuracy     the test metric that is compared (the counterpart of what is tuned on)
  seed=0               the first seed
  tuning_seeds=1       trials of each configuration within a search
and those of every search, the same for all methods, as `fairsweep run --help` lists them:
  budget.trials=20 | budget.total_steps=N | budget.total_minutes=N   the budget of one search
  search=tpe scheduler=asha budget.steps=100 space.lr.high=0.1 metric=... cluster.address=...
  name=NAME            the same words with the same name, or `fairsweep resume NAME`, go on with it; seeds=+N adds

Then `fairsweep show NAME` has the answer again, `fairsweep report NAME` a page with figures."""


def register(add: Any) -> None:
    """Adds the verbs of this file. add: see `cluster.cli`."""
    p = add(
        "compare",
        _compare,
        "which method is best on these data, by how much, how sure: equal budgets for all",
    )
    p.formatter_class, p.epilog = argparse.RawDescriptionHelpFormatter, EPILOG
    options = "[key=value ...] [--json] [--quiet] [--log-format json] [--cfg job]"
    p.usage = f"fairsweep compare METHOD METHOD ... | task=TASK {options}"
    p.add_argument("words", nargs="*", metavar="METHOD", help=argparse.SUPPRESS)
    p.add_argument("--cfg", choices=["job"], help="print what would be run and stop")
    of_a_run(p)
    p.add_argument("--storage", help=argparse.SUPPRESS)
    p.add_argument("--name", help=argparse.SUPPRESS)


def _compare(args: argparse.Namespace, rest: list[str]) -> int:
    from fairsweep.cluster.engine.local import prepare_environment

    prepare_environment()
    from fairsweep.cluster.jobs.comparing import job, plan
    from fairsweep.cluster.jobs.comparing.display import ComparisonDisplay, Lines

    words = [*args.words, *rest]
    flags = [word for word in words if word.startswith("-")]
    if flags:
        raise UserError(
            f"compare: does not know {' '.join(flags)}; settings are written key=value, see compare --help"
        )
    words, name, storage = _placed(words, args.name, args.storage)
    found = plan.asked(words, name, storage)
    if args.cfg:
        print(plan.yaml_of(found), end="")
        return 0
    answer, state = job.run(found, ComparisonDisplay() if quiet(args) else Lines())
    return ended(answer, state, name, storage, args.json)


def _placed(words: list[str], name: str | None, storage: str | None) -> tuple[list[str], str, str]:
    """`words` without name and storage, and these two: as they are given, or a new name and the usual folder."""
    given = {"name": name, "storage": storage}
    rest = []
    for word in words:
        key, equals, value = word.partition("=")
        if key not in given or not equals:
            rest.append(word)
            continue
        value = value.strip("'\"")
        if given[key] not in (None, value):
            raise UserError(f"{word}: {key} is given twice")
        given[key] = value
    return (
        rest,
        given["name"] or f"compare-{datetime.now():%Y%m%d-%H%M%S}",
        given["storage"] or DEFAULT_STORAGE,
    )


def ended(answer: Any, state: str, name: str, storage: str, as_json: bool) -> int:
    """Prints what was found; the exit code of a run that ended with `state`."""
    from fairsweep.analysis import report
    from fairsweep.analysis.comparing import answering

    if as_json:
        said = None if answer is None else answering.jsonable(answer)
        report.print_json({"run": name, "storage": masked_uri(storage), "state": state, "answer": said})
    else:
        if answer is not None:
            print_answer(answer)
        print(f"store    {masked_uri(storage)}  (table comparisons, and a sweep for each search; run {name})")
        if answer is not None and state != "interrupted":
            print(f"page     {_again('report', name, storage)}")
        if state == "interrupted":
            print(f"resume   {_again('resume', name, storage)}")
    if state == "interrupted":
        return 130
    return 0 if answer is not None and answer.decision is not None else 1


def _again(verb: str, name: str, storage: str) -> str:
    where = [] if storage == DEFAULT_STORAGE else ["--storage", masked_uri(storage)]
    return shlex.join(["fairsweep", verb, name, *where])


def print_answer(answer: Any) -> None:
    """The answer in a sentence, the methods with intervals and costs, the pairs; notes on standard error."""
    from fairsweep.analysis import report
    from fairsweep.analysis.report import number
    from fairsweep.cluster.display import clock

    sign = -1.0 if answer.mode == "max" else 1.0
    order = sorted(answer.standings, key=lambda s: (s.value is None, sign * (s.value or 0.0)))
    rows = []
    for s in order:
        row: dict[str, Any] = {"method": s.method, answer.metric: s.value}
        row["95 % interval"] = f"{number(s.ci95[0])} .. {number(s.ci95[1])}" if s.ci95 else None
        if len(answer.data_sets) > 1:
            row |= dict(s.values)
        row |= {"trials": s.trials, "steps": s.steps, "failed": s.failures or None}
        rows.append(row | {"search": clock(s.search_s), "final": clock(s.final_s)})
    report.show_rows(rows, list(rows[0]) if rows else [])
    if answer.decision is not None:
        pairs, gaps = [], answer.decision.gaps
        if len(gaps) > PAIRS:
            gaps = [gap for gap in gaps if order[0].method in (gap.a, gap.b)]
        for gap in sorted(gaps, key=lambda g: -abs(g.effect)):
            a, b, d, ci = gap.a, gap.b, gap.difference, gap.ci95
            if gap.effect < 0:  # 0 - 0 is 0, and -0 is not
                a, b, d, ci = b, a, 0 - d, None if ci is None else (0 - ci[1], 0 - ci[0])
            said = f"{number(ci[0])} .. {number(ci[1])}" if ci else None
            pairs.append(
                {
                    "better": a,
                    "than": b,
                    "by": d,
                    "95 % interval": said,
                    "by (in sd)": abs(gap.effect),
                    "p": gap.p,
                    "p (Holm)": gap.p_holm,
                }
            )
        report.show_rows(pairs, list(pairs[0]))
        if len(gaps) < len(answer.decision.gaps):
            every = len(answer.decision.gaps)
            print(
                f"pairs    of {every} those of {order[0].method}; `fairsweep report {answer.run}` and --json have all"
            )
    print_absent(answer.absent)
    print(f"answer   {answer.sentence}")
    if answer.more:
        print(f"next     {answer.more}")
    searched, trained = (sum(getattr(s, what) for s in answer.standings) for what in ("search_s", "final_s"))
    kind, amount = answer.budget
    print(
        f"cost     {clock(searched)} for searches of {number(amount)} {kind} each, {clock(trained)} for what they chose"
    )
    for note in answer.notes:
        print(f"note: {note}", file=sys.stderr)


def print_absent(absent: Any) -> None:
    """The methods of the task that could not take part, and why."""
    for method, why in absent:
        print(f"left out {method}: {why}")
