"""What keeps a store in order: delete, rename, tag."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Iterator
from typing import Any

from fairsweep.cluster import DEFAULT_STORAGE
from fairsweep.cluster.commands.tables import existing
from fairsweep.cluster.errors import UserError


def register(add: Any) -> None:
    """Adds the verbs of this file. add: see `cluster.cli`."""
    p = add("delete", _delete, "drop sweeps with their trials, checkpoints and networks")
    p.add_argument("sweeps", nargs="+", metavar="SWEEP", help="names of sweeps (`fairsweep ls`)")
    p.add_argument("--yes", action="store_true", help="do it; without, what would go is said")
    p.add_argument("--force", action="store_true", help="also what may still be written, on an object store")
    _storage(p)
    p = add("rename", _rename, "give a sweep or a comparison that has ended another name", sweep=True)
    p.add_argument("name", help="the new name")
    p = add(
        "tag", _tag, "add tags to a sweep, and drop some; `fairsweep ls --tag TAG` lists by them", sweep=True
    )
    p.add_argument("tags", nargs="*", metavar="TAG", help="to add; none: those that it has")
    p.add_argument("--drop", action="append", default=[], metavar="TAG", help="may be repeated")


def _storage(p: argparse.ArgumentParser) -> None:
    p.add_argument("--storage", default=DEFAULT_STORAGE, help="folder or URI of the store")


@contextlib.contextmanager
def _request() -> Iterator[None]:
    """What the store refuses is a wrong request: names, tags."""
    from fairsweep.analysis.store import StoreError, UnknownSweep

    try:
        yield
    except UnknownSweep:
        raise
    except StoreError as error:
        raise UserError(str(error)) from None


def _delete(args: argparse.Namespace, rest: list[str]) -> int:
    from fairsweep.analysis import report, upkeep

    store = existing(args.storage)
    found = {part: upkeep.holdings(store, part) for name in args.sweeps for part in _parts(store, name)}
    said = [f"{name}: {held.files} files, {held.bytes / 2**20:.1f} MiB" for name, held in found.items()]
    if not args.yes:
        raise UserError(f"delete: would drop {'; '.join(said)}, for good; --yes does it")
    with contextlib.ExitStack() as held:
        for name in args.sweeps:  # all of them first, so that nothing goes of a comparison that runs
            if store.derived("comparisons", name).num_rows or name not in found:
                held.enter_context(upkeep.alone(store, "comparisons", name, "comparison"))
        for name, line in zip(found, said, strict=True):
            upkeep.delete(store, name, args.force)
            if not args.json:
                print(f"deleted {line}")
        for name in args.sweeps:
            upkeep.forget(store, name)
    if args.json:
        report.print_json([{"sweep": n, "files": h.files, "bytes": h.bytes} for n, h in found.items()])
    return 0


def _parts(store: Any, name: str) -> list[str]:
    """The sweeps that go under this name: of a comparison all of it."""
    from fairsweep.cluster.jobs.comparing.job import check_alone, sweeps_of

    if store.has(name):
        check_alone(store, name, "delete")
        return [name]

    return sweeps_of(store, name) or ([] if store.derived("comparisons", name).num_rows else [name])


def _rename(args: argparse.Namespace, rest: list[str]) -> int:
    from fairsweep.analysis import upkeep
    from fairsweep.cluster.jobs.comparing import job, renaming

    store = existing(args.storage)
    renaming.check_whole(store, args.sweep, allowed=(args.sweep, args.name))
    if store.has(args.sweep):
        job.check_alone(store, args.sweep, "rename")
    sweeps = [] if store.has(args.sweep) else job.sweeps_of(store, args.sweep)
    with _request():
        known = sweeps or store.derived("comparisons", args.sweep).num_rows
        if known or renaming.is_cut_off(store, args.sweep):
            renaming.rename(store, args.sweep, args.name, sweeps)
        else:
            upkeep.rename(store, args.sweep, args.name)
    print(
        json.dumps({"sweep": args.name, "was": args.sweep}) if args.json else f"{args.sweep} is {args.name}"
    )
    return 0


def _tag(args: argparse.Namespace, rest: list[str]) -> int:
    from fairsweep.analysis import upkeep

    store = existing(args.storage)
    with _request():
        if args.tags or args.drop:
            upkeep.tag(store, args.sweep, args.tags, args.drop)
        elif not store.has(args.sweep):
            raise store.unknown(args.sweep)
    found = store.tags(args.sweep)
    print(json.dumps({"sweep": args.sweep, "tags": found}) if args.json else ", ".join(found) or "no tags")
    return 0
