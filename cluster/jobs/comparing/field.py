"""Who takes part where a task is named: its papers, maybe with their baselines; and why some cannot.

What cannot take the data is known before anything is trained: its data sets, its metrics, what it says itself
(`Paper.unsuited`), and a first trial, which is built once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fairsweep.cluster.checks import hint
from fairsweep.cluster.errors import MissingData, UserError
from fairsweep.cluster.jobs import sweep
from fairsweep.cluster.jobs.comparing import sets, tested
from fairsweep.cluster.jobs.comparing.entrants import Entrant
from fairsweep.cluster.jobs.comparing.methods import Method, bare, named
from fairsweep.cluster.jobs.comparing.sets import Data
from fairsweep.search_spaces._parameter import hydra_word
from fairsweep.trainables import catalog, index
from fairsweep.trainables.base import Paper
from fairsweep.trainables.own.source import is_reference

USUAL = (
    "model",
    "method",
)  # what the parameter is called whose values are a paper's method and its baselines


@dataclass(frozen=True)
class LeftOut:
    """A method of the task that does not take part."""

    method: str
    why: str


@dataclass(frozen=True)
class Field:
    """Who takes part in a comparison of the papers of a task, and who does not. task: as a word. on: the metric that
    most have. notes: what is to be said of the choice of the data."""

    task: str
    data: tuple[Data, ...]
    methods: tuple[Method, ...]
    entrants: tuple[Entrant, ...]
    left_out: tuple[LeftOut, ...]
    on: str | None
    notes: tuple[str, ...]


def of_task(
    text: str,
    asked: Sequence[Method],
    baselines: bool,
    data: str | None,
    folder: str | None,
    on: str | None,
    make: Callable[[Method, Data], Entrant],
) -> Field:
    """All papers of the task `text` that can take the data, and the methods that are `asked` for by name beside them.

    baselines: whether theirs are methods of their own. data, folder, on: as the words say them. UserError where it is
    no task, for data that no paper has, and where fewer than two methods are left.
    """
    task, papers = papers_of(text)
    chosen, notes = (data, ()) if data is not None else sets.most_shared(task, papers, folder)
    found = sets.read(chosen, folder)
    every = sorted({name for slug in papers for name in index.datasets_of(slug)})
    odd = next((each.name for each in found if each.name not in every), None)
    if odd is not None:
        raise UserError(f"data={odd}: no paper of the task {task} has such a data set; {hint(odd, every)}")
    of_papers, asked = [Method("", slug) for slug in papers], list(asked)
    if baselines:
        of_papers, asked = with_baselines(of_papers), with_baselines(asked)
    known = {_same(method) for method in asked}
    of_papers = [method for method in of_papers if _same(method) not in known]
    methods = labelled([*of_papers, *asked])
    by_name = methods[len(of_papers) :]
    entrants, left_out, metric = weeded(methods, by_name, found, make, on)
    able = [m for m in methods if any(e.method.label == m.label for e in entrants)]
    if len(able) < 2:
        raise UserError(_too_few(task, found, able, left_out, baselines))
    return Field(
        index.spoken(task), found, tuple(able), tuple(entrants), tuple(left_out), metric, notes
    )  # fmt: skip


def _too_few(
    task: str, data: Sequence[Data], able: Sequence[Method], left_out: Sequence[LeftOut], baselines: bool
) -> str:
    """Why there is nothing to compare, and what would be."""
    where = ", ".join(each.label for each in data)
    who = f"{able[0].label} is the only method that can take" if able else "no method can take"
    told = "".join(f"; {each.method}: {each.why}" for each in left_out)
    has = able and not baselines and contenders(catalog.get(able[0].trainable)) is not None
    more = "baselines=true compares its baselines too" if has else "name one of yours beside it"
    return f"task={index.spoken(task)}: {who} data={where}{told}{f'; {more}' if able else ''}"


# -- a task ---------------------------------------------------------------------------------------------


def papers_of(text: str) -> tuple[str, list[str]]:
    """The task that `text` names, as the papers call it, and its papers. UserError if none is of it."""
    known, word = index.tasks(), index.spoken(text)
    papers = known.get(word)
    if not papers:
        raise UserError(f"task={text}: no paper is of such a task; {hint(word, sorted(known))}")
    return index.task_of(papers[0]), papers


# -- baselines --------------------------------------------------------------------------------------------


def contenders(paper: type[Paper]) -> tuple[str, list[Any]] | None:
    """The parameter that chooses between a paper's method and its baselines, and its values, the method first."""
    declared, space = dict(paper.contenders), paper.space().parameters
    for name, values in declared.items() or ((name, None) for name in USUAL):
        parameter = space.get(name)
        if parameter is not None and parameter.fixed and parameter.choices:
            own = [value for value in values or parameter.choices if value != parameter.value]
            return name, [parameter.value, *own]
    return None


def with_baselines(methods: Sequence[Method]) -> list[Method]:
    """The methods, and in place of each paper that is named as it is, it and each of its baselines; each once."""
    found = []
    for method in methods:
        try:
            chosen = None if is_reference(method.trainable) else contenders(catalog.get(method.trainable))
        except Exception:  # it cannot even be imported: `weeded` says why
            chosen = None
        if chosen is None or chosen[0] in method.fixed:
            found.append(method)
            continue
        name, values = chosen
        found += [Method("", method.trainable, {**method.fixed, name: hydra_word(value)}) for value in values]
    once: dict[Any, Method] = {}
    for method in found:
        once.setdefault(_same(method), method)
    return list(once.values())


def _same(method: Method) -> tuple[str, frozenset[tuple[str, str]]]:
    """Equal for methods that are the same, by whatever label."""
    return method.trainable, frozenset((name, bare(value)) for name, value in method.fixed.items())


def labelled(methods: Sequence[Method]) -> list[Method]:
    """The methods with labels; `dagnn:dagnn`, the method of the paper that is called after it, is `dagnn`, if none is
    called so yet."""
    labels = named(methods)
    found, taken = [], {method.label for method in labels}
    for method in labels:
        head, _, value = method.label.partition(":")
        found.append(replace(method, label=head) if value == head and head not in taken else method)
    return found


# -- who can ----------------------------------------------------------------------------------------------


def weeded(
    methods: Sequence[Method],
    by_name: Sequence[Method],
    data: Sequence[Data],
    make: Callable[[Method, Data], Entrant],
    on: str | None,
) -> tuple[list[Entrant], list[LeftOut], str | None]:
    """The entrants of those that can take all of the data, the others with their reasons, and the metric.

    by_name: those of the methods that were asked for so: what is wrong with one of them is an error. on: the metric
    that is asked for; None: the one that most papers have. Those for which the other way is better are left out.
    """
    able: dict[str, list[Entrant]] = {}
    why: dict[str, str] = {}
    missing = False
    for method in methods:
        try:
            able[method.label] = [_able(method, each, make) for each in data]
        except Exception as error:
            if method in by_name:
                raise
            missing = missing or isinstance(error, MissingData)
            why[method.label] = reason(error).removeprefix(f"{method.label}: ")
    papers = list(dict.fromkeys(each[0].paper for each in able.values()))  # one vote each, with any baselines
    wanted, mode = tested.most_have(papers, [each.name for each in data], on) or (on, None)
    for method in methods:
        if wanted is None or method in by_name or method.label not in able:
            continue
        paper = able[method.label][0].paper
        lack = tested.lacking(paper, wanted)
        if not lack and mode is not None and paper.metric(wanted).mode != mode:
            lack = f"has a {wanted} that is better the other way round"
        if lack:
            del able[method.label]
            why[method.label] = f"on={wanted}: {lack}"
    if not able and len(set(why.values())) == 1:  # it is the request that is wrong
        raise (MissingData if missing else UserError)(next(iter(why.values())))
    entrants = [
        each for k in range(len(data)) for each in (able[m.label][k] for m in methods if m.label in able)
    ]
    return entrants, _told([m for m in methods if m not in by_name], why), wanted


def _told(methods: Sequence[Method], why: Mapping[str, str]) -> list[LeftOut]:
    """Those that are left out; a paper once, where one reason holds for it and all of its baselines."""
    found: dict[str, LeftOut] = {}
    for method in methods:
        if method.label not in why:
            continue
        of_paper = {why.get(m.label) for m in methods if m.trainable == method.trainable}
        name = method.trainable if len(of_paper) == 1 else method.label
        found.setdefault(name, LeftOut(name, why[method.label]))
    return list(found.values())


def _able(method: Method, data: Data, make: Callable[[Method, Data], Entrant]) -> Entrant:
    """The method on a data set. Raises, with the reason, where no trial of it can be trained there."""
    known = catalog.get(method.trainable).datasets if not is_reference(method.trainable) else (data.name,)
    if data.name not in known:
        raise UserError(f"has no data={data.name}; its own are {', '.join(known)}")
    made = make(method, data)
    check(made)
    return made


def check(entrant: Entrant) -> None:
    """Raises where a paper says that it cannot be trained on the data, or a first trial cannot be built."""
    settings, paper = entrant.settings, entrant.paper
    config, setting = sweep.first_trial(settings, paper)
    why = paper.unsuited(config, setting.data or paper.datasets[0], setting.data_dir)
    if why is not None:
        raise UserError(why)
    sweep.built(settings, paper)


def reason(error: Exception) -> str:
    """Why a method is left out, in one line."""
    if isinstance(error, ModuleNotFoundError):
        return f"needs the package {error.name}, which is not installed"
    text = " ".join(str(error.args[0] if error.args else error).split())
    own = isinstance(error, (ValueError, catalog.UnknownPaper)) and text
    return text if own else f"its first configuration does not build: {type(error).__name__}: {text}"
