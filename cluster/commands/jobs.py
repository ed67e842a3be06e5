"""Verbs as jobs of a Ray cluster: submit, status, logs, stop."""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from fairsweep.cluster import DEFAULT_STORAGE
from fairsweep.cluster.commands import examples
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs import submitted

NOT_IN_A_JOB = (
    "submit",
    "status",
    "logs",
    "stop",
    "local",
    "completion",
    "dashboard",
    "serve",
    "doctor",
    "new",
    "ls",
)
EXAMPLES = (
    "fairsweep submit run trainable=biper budget.trials=6",
    "fairsweep submit --no-wait --address http://HEAD:8265 run trainable=train.py:train storage=s3://bucket/sweeps",
    "fairsweep submit --pass WANDB_API_KEY run trainable=dagnn tracking=wandb tracking.mode=online",
    "fairsweep submit resume dagnn-20261124-101500 budget.trials=+20",
)


def register(add: Any) -> None:
    """Adds the verbs of this file. add: see `cluster.cli`."""
    p = add("submit", _submit, "run any other verb as a job of a Ray cluster, and follow it")
    p.usage = "fairsweep submit [--address URL] [--no-wait] [option ...] VERB [word ...]"
    examples(p, *EXAMPLES)
    _address(p)
    p.add_argument("--no-wait", action="store_true", help="print the job's id and leave it alone")
    p.add_argument("--id", metavar="ID", help="the id that the job is to have")
    p.add_argument(
        "--working-dir",
        default=".",
        metavar="DIR",
        help="the folder that goes along (this one); words are read in it",
    )
    p.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="PATTERN",
        help="leave this out of it, as a line of .gitignore would; may be repeated",
    )
    p.add_argument(
        "--include",
        action="append",
        default=[],
        metavar="PATH",
        help="take this file or folder along, though it is ignored; may be repeated",
    )
    p.add_argument("--max-mib", type=int, help="how large what goes along may be (100)", metavar="N")
    p.add_argument(
        "--no-data", action="store_true", help="data_dir is a folder of the nodes: take nothing of it along"
    )
    p.add_argument(
        "--packages",
        metavar="WHICH",
        help="install for the job what the nodes lack: `constraints`, what fairsweep needs in the versions of "
        "constraints.txt, and fairsweep itself; or a requirements file. Without it the nodes have all of it",
    )
    p.add_argument(
        "--pass",
        action="append",
        default=[],
        dest="passed",
        metavar="NAME[=VALUE]",
        help="a variable of the job's environment, such as WANDB_API_KEY; may be repeated",
    )
    p.add_argument(
        "words", nargs=argparse.REMAINDER, metavar="VERB ...", help="any other verb with its words"
    )

    p = add("status", _status, "the jobs of a cluster, or one: its state, its sweep, its exit code")
    _of_a_job(p, "?", "exits with its code when it has ended")
    p.add_argument("--wait", action="store_true", help="until it has ended")

    p = add("logs", _logs, "what a job has written", json=False)
    _of_a_job(p, "?", "without it the newest")
    p.add_argument("--follow", "-f", action="store_true", help="until it ends; exits with its code")

    p = add("stop", _stop, "end a job: running trials end at their next report, `resume` goes on")
    _of_a_job(p, None, "`fairsweep status` lists them")


def _of_a_job(p: Any, count: str | None, more: str) -> None:
    """Adds what says of which job a verb is."""
    p.add_argument(
        "job", nargs=count, metavar="JOB", help=f"the id of a job, or the sweep that it runs; {more}"
    )
    _address(p)
    p.add_argument("--storage", help="the store of its sweep, where it is not where the job was submitted")


def _address(p: Any) -> None:
    p.add_argument(
        "--address", metavar="URL",
        help="of the job server, http://HEAD:8265; without it RAY_API_SERVER_ADDRESS, RAY_ADDRESS, the cluster of "
        "`fairsweep local`, or this machine's port 8265",
    )  # fmt: skip


def _submit(args: argparse.Namespace, rest: list[str]) -> int:
    from fairsweep.cluster import masking
    from fairsweep.cluster.service import jobs, sending
    from fairsweep.cluster.service.package import MIB, MOST_MIB, RAY_MIB

    words = args.words[1:] if args.words[:1] == ["--"] else args.words
    if args.max_mib is not None and not 1 <= args.max_mib <= RAY_MIB:
        raise UserError(
            f"--max-mib={args.max_mib}: must be a whole number from 1 to {RAY_MIB}, what Ray takes"
        )
    if args.id is not None and not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,99}", args.id, re.ASCII):
        raise UserError(f"--id={args.id}: must be letters, digits, '_', '-' and '.', at most 100")
    folder = Path(args.working_dir).expanduser()
    if not folder.is_dir():
        raise UserError(f"--working-dir={args.working_dir}: no such folder")
    os.chdir(folder)
    folder = Path.cwd()
    sending.check(words, args.verbs, NOT_IN_A_JOB)
    client = jobs.connect(args.address)
    options = sending.Options(
        args.exclude, args.include, args.max_mib or MOST_MIB, args.packages, args.passed, not args.no_data
    )
    parcel = sending.pack(words, folder, options)
    for note in parcel.notes:
        print(f"note: {note}", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="fairsweep-submit-") as place:
        archive = Path(place, "package.zip")
        size = parcel.package.write(archive)
        if size > RAY_MIB * MIB:
            raise UserError(f"submit: the package has {size / MIB:.0f} MiB packed, and Ray takes {RAY_MIB}")
        began = {**parcel.runtime_env, "working_dir": str(archive)}
        job = jobs.submit(client, parcel.entrypoint, began, parcel.metadata, args.id)
    server, count = client.get_address(), len(parcel.package.files)
    if args.no_wait:
        if args.json:
            from fairsweep.analysis import report

            report.print_json({"job": job, "address": server, "files": count, "bytes": size})
        else:
            print(job)
        return 0
    where = "" if args.address is None else f" --address {server}"
    said = f"job      {job} at {server} ({count} files, {size / MIB:.1f} MiB): {masking.command(['fairsweep', *words])}"
    print(said, file=sys.stderr, flush=True)
    try:
        return _followed(client, job)
    except KeyboardInterrupt:
        print(
            f"\nthe job goes on: `fairsweep logs -f {job}{where}` follows it, `fairsweep stop {job}{where}` ends it",
            file=sys.stderr,
        )
        return 130


def _followed(client: Any, job: str) -> int:
    """Prints what a job writes until it ends; its exit code."""
    from fairsweep.cluster.service import jobs

    tail = _Tail()
    about = jobs.follow(client, job, tail)
    _why(about, tail.text)
    if jobs.state_of(about) == "STOPPED":
        print(f"job      {job} was stopped", file=sys.stderr)
    code = jobs.outcome(about, jobs.record_of(about))
    return 1 if code is None else code


class _Tail:
    """Prints, and keeps the end of it."""

    def __init__(self) -> None:
        self.text = ""

    def __call__(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
        self.text = (self.text + text)[-4000:]


def _why(about: Any, log: str) -> None:
    """Says on standard error why a job ended before its verb did anything."""
    from fairsweep.cluster.service import jobs

    why = jobs.why_failed(about)
    if why:
        print(f"fairsweep: error: the job did not start: {why}", file=sys.stderr)
    missing = jobs.lacking(log) if jobs.state_of(about) == "FAILED" else ""
    if missing:
        print(
            f"fairsweep: error: the cluster's nodes have no module {missing}; install it there, or submit with"
            " --packages constraints (or a requirements file of yours)",
            file=sys.stderr,
        )


def _status(args: argparse.Namespace, rest: list[str]) -> int:
    from fairsweep.analysis import report
    from fairsweep.cluster.service import jobs

    if args.wait and not args.job:
        raise UserError("--wait: goes with a job")
    try:
        client = jobs.connect(args.address)
    except UserError:  # the cluster may be gone, and what its jobs have left is not
        place, job = args.storage or DEFAULT_STORAGE, args.job
        record = submitted.read(place, job) if job else None
        if job and record is None and (job := submitted.of_sweep(place, job)) is not None:
            record = submitted.read(place, job)
        if record is None or record["code"] is None:
            raise
        return _told(
            {"job": job, "state": "ended", **record, "ended": _clock(record["ended"] * 1000)}, args.json
        )
    if not args.job:
        rows = [_row(about) for about in jobs.listed(client)]
        if args.json:
            report.print_json(rows)
        elif not rows:
            print(f"no jobs at {client.get_address()}")
        else:
            report.show_rows(rows, ["job", "state", "code", "started", "sweep", "command"])
        return 0
    about = jobs.find(client, args.job, args.storage)
    while args.wait and not jobs.is_over(about):
        time.sleep(1.0)
        about = jobs.info(client, about.submission_id)
    return _told(_row(about, args.storage), args.json)


def _told(row: dict[str, Any], as_json: bool) -> int:
    """Prints what is known of a job; its exit code, 0 while it runs."""
    from fairsweep.analysis import report

    if as_json:
        report.print_json(row)
    else:
        for name in ("job", "state", "code", "sweep", "storage", "started", "ended", "command", "why"):
            if row.get(name) is not None:
                print(f"{name:<8} {row[name]}")
    return row["code"] or 0


def _row(about: Any, storage: str | None = None) -> dict[str, Any]:
    """What is told of a job."""
    from fairsweep.cluster import masking
    from fairsweep.cluster.service import jobs

    record = jobs.record_of(about, storage)
    return {
        "job": about.submission_id,
        "state": jobs.state_of(about).lower(),
        "code": jobs.outcome(about, record),
        "sweep": record["sweep"] if record else None,
        "storage": (record or {}).get("storage") or (about.metadata or {}).get(submitted.STORE),
        "started": _clock(about.start_time),
        "ended": _clock(about.end_time),
        "command": masking.masked_command(about.entrypoint.removeprefix("exec python -m fairsweep.cluster ")),
        "why": jobs.why_failed(about) or None,
    }


def _clock(milliseconds: float | None) -> str | None:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(milliseconds / 1000)) if milliseconds else None


def _logs(args: argparse.Namespace, rest: list[str]) -> int:
    from fairsweep.cluster.service import jobs

    client = jobs.connect(args.address)
    if args.job is None:
        known = jobs.listed(client)
        if not known:
            raise UserError(f"logs: {client.get_address()} has no jobs yet")
        about = known[-1]
    else:
        about = jobs.find(client, args.job, args.storage)
    job = about.submission_id
    if args.follow:
        return _followed(client, job)
    text = jobs.without_front(client.get_job_logs(job))
    print(text, end="")
    _why(about, text)
    return 0


def _stop(args: argparse.Namespace, rest: list[str]) -> int:
    from fairsweep.analysis import report
    from fairsweep.cluster.service import jobs
    from fairsweep.cluster.storage import resuming

    client = jobs.connect(args.address)
    job = jobs.find(client, args.job, args.storage).submission_id
    ran, about = jobs.stop(client, job)
    record = jobs.record_of(about, args.storage)
    sweep, state = (record or {}).get("sweep"), jobs.state_of(about).lower()
    if args.json:
        report.print_json({"job": job, "ran": ran, "state": state, "sweep": sweep})
    elif not ran:
        print(f"{job} has ended already ({state})")
    elif not jobs.is_over(about):
        print(f"{job} was asked to end and still runs; `fairsweep status {job} --wait` waits for it")
        return 1
    else:
        print(f"{job} is stopped")
        if sweep and record and record.get("code") == 130:
            print(
                f"resume   fairsweep submit {resuming(sweep, record['storage']).removeprefix('fairsweep ')}"
            )
    return 0
