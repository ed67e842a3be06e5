"""Whether a cluster of several nodes can run a sweep, found out before anything is trained or written.

Each node is asked once, by a task that takes none of its resources: which versions it has, and whether it sees what
is written to the store here, as this machine sees what it writes there. On one node nothing is asked.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from platform import python_version
from typing import Any

from fairsweep.analysis.store import filesystem
from fairsweep.cluster.engine import nodes
from fairsweep.cluster.engine.local import alone
from fairsweep.cluster.errors import UnfitCluster, UserError
from fairsweep.cluster.jobs import provenance

# How much of a version must be the same, in numbers of it. Further ones are worth a note.
ALIKE = {"python": 2, "ray": 3, "torch": 2, "numpy": 1, "pyarrow": 0}
ANSWER_S = 60.0  # that all nodes have to answer
SEEN_S = 3.0  # that a file on a shared folder may take until others see it
MANY = 3  # nodes that are named
PLURAL = {"has": "have", "does": "do", "writes": "write", "fails:": "fail:"}


@dataclass(frozen=True)
class Asked:
    """What is asked of a node. folder: of the probe, in the store (URI or path); word: what is in its file."""

    folder: str
    word: str
    data_dir: str | None = None


@dataclass(frozen=True)
class Answer:
    """What a node says. unseen, unwritten: why it cannot read, or write, in the store; empty if it can."""

    versions: Mapping[str, str | None]
    code: str
    revision: str
    unseen: str = ""
    unwritten: str = ""
    no_data: bool = False


def room(
    options: Mapping[str, Any], wanted: int | None, storage: str, data_dir: str | None = None
) -> nodes.Room:
    """How many trials run at a time on the cluster that this process is connected to, and what is to be said of it.

    options: of the group `cluster`. wanted: `budget.concurrent`. storage: of the store, which is left as it was.
    UserError, UnfitCluster, in one line, if the sweep cannot run there.
    """
    found = nodes.find_room(options, wanted, fixed=alone())
    return nodes.Room(found.slots, (*found.notes, *checked(storage, data_dir, nodes.needs(options))))


def checked(
    storage: str, data_dir: str | None = None, need: Mapping[str, float] | None = None
) -> tuple[str, ...]:
    """Notes on the nodes of the cluster that this process is connected to; on one node none. Errors: see `room`.

    need: what a trial takes; nodes on which none fits, such as a head without CPUs, are not asked.
    """
    there = nodes.alive()
    if len(there) < 2:
        return ()
    able = [node for node in there if need is None or nodes.fits(node["Resources"], need)]
    return alike_and_shared(_names(able), storage, data_dir, ask_ray)


def _names(there: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What nodes are called, by their identifiers."""
    hosts = [node["NodeManagerHostname"] for node in there]
    return {
        node["NodeID"]: node["NodeManagerAddress"] + (f" ({host})" if len(set(hosts)) == len(hosts) else "")
        for node, host in zip(there, hosts, strict=True)
    }


def alike_and_shared(
    named: Mapping[str, str],
    storage: str,
    data_dir: str | None,
    ask: Callable[[Mapping[str, str], Asked], dict[str, Answer | str]],
) -> tuple[str, ...]:
    """Notes on nodes that differ in what does not matter much. Errors: see `room`.

    named: nodes by identifier. ask: has `look` run on each of them; a text is why one gave no answer.
    """
    with _probe(storage) as asked:
        told = ask(named, Asked(asked.folder, asked.word, data_dir))
        silent = {named[node]: text for node, text in told.items() if isinstance(text, str)}
        if silent:
            raise UnfitCluster(_said("node", silent) + "; end that node, or mend it, and start again")
        answers = {node: answer for node, answer in told.items() if isinstance(answer, Answer)}
        _check_storage(storage, asked, {named[node]: (node, a) for node, a in answers.items()})
    _check_data(data_dir, {named[node]: a for node, a in answers.items()})
    return _check_versions({named[node]: a for node, a in answers.items()})


def look(node: str, asked: Asked) -> Answer:
    """What this machine, the node called `node`, has and sees."""
    unseen = unwritten = ""
    try:
        fs, folder = filesystem(asked.folder)
        if _read(fs, f"{folder}/driver") != asked.word:
            unseen = "other content"
        else:
            unwritten = _written(fs, f"{folder}/{node}", asked.word)
    except Exception as error:  # every file system has errors of its own
        unseen = _first(error)
    no_data = asked.data_dir is not None and not os.path.isdir(asked.data_dir)
    return Answer(installed(), provenance.code_digest(), provenance.revision(), unseen, unwritten, no_data)


def _written(fs: Any, path: str, word: str) -> str:
    """Writes a file; why it cannot, or ""."""
    try:
        with fs.open_output_stream(path) as file:
            file.write(word.encode())
    except Exception as error:
        return _first(error)
    return ""


def _read(fs: Any, path: str) -> str:
    """The text of a small file, which may be new. Raises what reading it raises for `SEEN_S` seconds."""
    until = time.monotonic() + SEEN_S
    while True:
        try:
            with fs.open_input_stream(path) as file:
                return str(file.read().decode())
        except Exception:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def _first(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def _probe(storage: str) -> Iterator[Asked]:
    """A file of the driver in a folder of its own in the store; both go, and the store if it was not there."""
    word = uuid.uuid4().hex
    fs, root = filesystem(storage)
    folder, local = f"{root}/.probe-{word}", "://" not in storage or storage.startswith("file:")
    made = _make(folder) if local else []
    try:
        failed = _written(fs, f"{folder}/driver", word)
        if failed:
            raise UserError(f"storage={storage}: this machine cannot write there: {failed}")
        yield Asked(f"{storage.rstrip('/')}/.probe-{word}", word)
    finally:
        with contextlib.suppress(Exception):
            fs.delete_dir(folder)
        for each in made:
            with contextlib.suppress(OSError):
                os.rmdir(each)


def _make(folder: str) -> list[str]:
    """Makes a folder; which ones there were not, the innermost first."""
    missing, each = [], folder
    while each and not os.path.isdir(each) and each != os.path.dirname(each):
        missing.append(each)
        each = os.path.dirname(each)
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"storage={os.path.dirname(folder)}: this machine cannot write there: {_first(error)}"
        ) from None
    return missing


# -- judging ----------------------------------------------------------------------------------------------


def _check_storage(storage: str, asked: Asked, answers: Mapping[str, tuple[str, Answer]]) -> None:
    fs, folder = filesystem(asked.folder)
    blind = {name: "does not see what is written there here" for name, (_, a) in answers.items() if a.unseen}
    if blind:
        why = next(a.unseen for _, a in answers.values() if a.unseen)
        raise UserError(
            f"storage={storage}: {_said('node', blind)} ({why}); use a folder that all nodes share (NFS) or object "
            "storage such as s3://bucket/path"
        )
    barred = {name: f"cannot write there: {a.unwritten}" for name, (_, a) in answers.items() if a.unwritten}
    if barred:
        raise UserError(f"storage={storage}: {_said('node', barred)}")
    unheard = {}
    for name, (node, _) in answers.items():
        try:
            seen = _read(fs, f"{folder}/{node}") == asked.word
        except Exception:
            seen = False
        if not seen:
            unheard[name] = "writes there what is not seen here"
    if unheard:
        raise UserError(f"storage={storage}: {_said('node', unheard)}; use a folder that all nodes share")


def _check_data(data_dir: str | None, answers: Mapping[str, Answer]) -> None:
    without = {name: "has no such folder" for name, answer in answers.items() if answer.no_data}
    if without:
        raise UserError(
            f"data_dir={data_dir}: {_said('node', without)}; data must lie at the same path on every node"
        )


def _check_versions(answers: Mapping[str, Answer]) -> tuple[str, ...]:
    mine, digest, revision = installed(), provenance.code_digest(), provenance.revision()
    broken, odd = {}, {}
    for name, answer in answers.items():
        breaks, differs = differences(mine, answer.versions)
        if answer.code != digest:
            breaks.insert(0, f"another fairsweep, {answer.revision} (here {revision})")
        if breaks:
            broken[name] = f"has {', '.join(breaks)}"
        elif differs:
            odd[name] = f"has {', '.join(differs)}"
    if broken and not os.environ.get("RAY_IGNORE_VERSION_MISMATCH"):
        raise UnfitCluster(
            f"the nodes are not alike: {_said('node', broken)}; start Ray on every node from the same environment "
            "(RAY_IGNORE_VERSION_MISMATCH=1 runs all the same)"
        )
    return tuple(f"the nodes are not alike: {_said('node', each)}" for each in (broken, odd) if each)


def differences(
    mine: Mapping[str, str | None], theirs: Mapping[str, str | None]
) -> tuple[list[str], list[str]]:
    """What another machine has otherwise: what breaks sweeps, and what is worth a note."""
    breaks: list[str] = []
    notes: list[str] = []
    for name, parts in ALIKE.items():
        here, there = mine.get(name), theirs.get(name)
        if here == there:
            continue
        text = f"{name} {there} (here {here})" if there else f"no {name}"
        (breaks if there is None or _release(here)[:parts] != _release(there)[:parts] else notes).append(text)
    return breaks, notes


def _release(text: str | None) -> list[str]:
    """The numbers of a version, without what tells builds of it apart (2.13.0+cu128)."""
    return (text or "").partition("+")[0].split(".")


def installed() -> dict[str, str | None]:
    """The versions on this machine of what `ALIKE` names."""
    found: dict[str, str | None] = {"python": python_version()}
    for name in ALIKE:
        if name not in found:
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                found[name] = None
    return found


def _said(what: str, by_name: Mapping[str, str]) -> str:
    """ "node a has this; nodes b and c have that": those of which the same is said are named together."""
    groups: dict[str, list[str]] = {}
    for name, text in sorted(by_name.items()):
        groups.setdefault(text, []).append(name)
    said = []
    for text, names in groups.items():
        shown = names if len(names) <= MANY else [*names[: MANY - 1], f"{len(names) - MANY + 1} more"]
        verb, _, rest = text.partition(" ")
        if len(names) == 1:
            said.append(f"{what} {names[0]} {text}")
        else:
            said.append(f"{what}s {', '.join(shown[:-1])} and {shown[-1]} {PLURAL.get(verb, verb)} {rest}")
    return "; ".join(said)


# -- on Ray -----------------------------------------------------------------------------------------------


def ask_ray(named: Mapping[str, str], asked: Asked) -> dict[str, Answer | str]:
    """Has `look` run on each of the nodes."""
    import ray

    task = ray.remote(num_cpus=0, max_retries=0)(look)
    strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    calls = {
        task.options(scheduling_strategy=strategy(node, soft=False)).remote(node, asked): node
        for node in named
    }
    ready, late = ray.wait(list(calls), num_returns=len(calls), timeout=ANSWER_S)
    told: dict[str, Answer | str] = {calls[call]: f"has given no answer for {ANSWER_S:g} s" for call in late}
    for call in ready:
        try:
            told[calls[call]] = ray.get(call)
        except Exception as error:
            why = _cause(error)
            lacks = "ModuleNotFoundError" in why and "fairsweep" in why
            told[calls[call]] = f"has no fairsweep, or another one: {why}" if lacks else f"fails: {why}"
    gone = set(named) - {node["NodeID"] for node in nodes.alive()}
    return {node: answer for node, answer in told.items() if node not in gone or not isinstance(answer, str)}


def _cause(error: BaseException) -> str:
    """The last line of an error of Ray that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "Error" in line.partition(":")[0]]
    return (named or lines or [type(error).__name__])[-1]
