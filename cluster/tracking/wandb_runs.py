"""W&B: a run a trial, and one for the sweep.

What wandb 0.31 makes of a run decides much here:

- An offline run cannot be taken up. A trial that goes on writes its whole history into a new run folder, which takes
  the place of the earlier ones when it ends; after `wandb sync` there is one whole run. An online run is taken up where
  the server says that it stands.
- With WANDB_SWEEP_ID or WANDB_LAUNCH in the environment, `wandb.init` takes the run's id and project from there
  whatever the code says. Ray's workers inherit them from an agent's command, so all trials would write into one run.
  They are taken out of the worker's environment; a sweep of one trial is told the agent's run by its driver
  (`agent_of`) and reports into that.
- A stop from the server is a SIGINT to the process, a worker that many trials share, unless `stop_fn` says otherwise.
- A row is written when the next one comes, unless it says commit; what is written reaches the disk every 15 s, unless
  `x_transaction_log_flush_interval` says otherwise. A worker that is killed leaves all that it has reported.
- A server that does not answer is waited for until `init_timeout`. After that, runs of this worker are offline for a
  while: they are as whole, and `wandb sync` uploads them.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fairsweep.cluster.tracking import Sweep, Trial, ending, first_line
from fairsweep.cluster.tracking.apart import apart

# Of the one run that an agent or a launch has started this process for, or of another process's connection.
OF_ONE_RUN = (
    "WANDB_SWEEP_ID",
    "WANDB_SWEEP_PARAM_PATH",
    "WANDB_RUN_ID",
    "WANDB_RESUME",
    "WANDB_RESUME_FROM",
    "WANDB_FORK_FROM",
    "WANDB_LAUNCH",
    "WANDB_LAUNCH_CONFIG_PATH",
    "WANDB_NAME",
    "WANDB_RUN_GROUP",
    "WANDB_JOB_TYPE",
    "WANDB_SERVICE",
)
EXIT_CODES = {"failed": 1, "interrupted": 255}  # as W&B's client itself tells an exception, and Ctrl-C
STATUSES = ("complete", "failed", "pruned", "interrupted")
OFFLINE_S = 300.0  # without another try, after a server has not answered
LOGIN_S = 15.0  # that the server may take before the trials
INTERRUPT_S = 5.0  # that an interrupted run may take to end
_offline_until = 0.0  # monotonic


def why_not(options: Mapping[str, Any]) -> str | None:
    """Why W&B cannot start here; None if it can, or if its server does not answer in time: runs are offline then."""
    if options.get("mode", "offline") != "online":
        return unready(options)
    try:
        problem: str | None = apart(f"{__name__}:unready", {"options": options}, LOGIN_S)
    except TimeoutError:
        return None
    return problem


def unready(options: Mapping[str, Any]) -> str | None:
    """What is wrong with project and entity, or that there is no key. Online, it may ask the server."""
    if options.get("mode") == "online":
        os.environ.pop("WANDB_MODE", None)
        os.environ["WANDB_SILENT"] = "true"
    import wandb

    wandb.Settings(project=options.get("project"), entity=options.get("entity"))
    if options.get("mode") == "online" and not wandb.login(prompt=False, verify=False):
        return (
            "tracking.mode=online: W&B has no API key here; set WANDB_API_KEY or run `wandb login`, or take "
            "tracking.mode=offline"
        )
    return None


def agent_of(environment: Mapping[str, str]) -> dict[str, Any] | None:
    """The run for which an agent of a W&B sweep has started this process: sweep, id, project, entity, and the names by
    which the sweep knows its parameters. None if no agent has."""
    sweep, run = environment.get("WANDB_SWEEP_ID"), environment.get("WANDB_RUN_ID")
    if not sweep or not run:
        return None
    names: list[str] = []
    path = environment.get("WANDB_SWEEP_PARAM_PATH")
    if path and os.path.isfile(path):
        import yaml

        read = yaml.safe_load(Path(path).read_text()) or {}
        names = [name for name in read if name != "wandb_version"]
    return {
        "sweep": sweep,
        "run": run,
        "project": environment.get("WANDB_PROJECT"),
        "entity": environment.get("WANDB_ENTITY"),
        "names": names,
    }


def open_run(options: Mapping[str, Any], trial: Trial) -> WandbRun:
    return WandbRun(options, trial)


def _client() -> Any:
    """wandb, whose settings are of no run in particular."""
    for name in OF_ONE_RUN:
        os.environ.pop(name, None)
    import wandb

    known = wandb.setup().settings
    if known.sweep_id or known.launch:  # code of the user's has read the environment before us
        known.sweep_id = known.sweep_param_path = known.run_id = None
        known.launch = False
    return wandb


def _begin(
    wandb: Any, options: Mapping[str, Any], mode: str, stop: Callable[[], None] | None = None, **of_run: Any
) -> Any:
    """A run. Says nothing of machine and command line, whose words may be secrets."""
    seconds = float(options.get("finish_timeout_s", 20.0))
    agent = of_run.pop("agent", None)
    further: dict[str, Any] = {"sweep_id": agent["sweep"]} if agent else {}
    if stop is not None:
        further["stop_fn"] = stop
    if commit := options.get("about", {}).get("git_commit"):
        further["git_commit"] = commit
    os.makedirs(options["dir"], exist_ok=True)
    return wandb.init(
        mode=mode,
        dir=options["dir"],
        project=(agent or {}).get("project") or options.get("project") or "fairsweep",
        entity=(agent or {}).get("entity") or options.get("entity"),
        resume="allow",
        reinit="create_new",  # runs of the user's own code are none of our business
        settings=wandb.Settings(
            console="off",
            silent=True,
            init_timeout=seconds,
            finish_timeout=seconds,
            save_code=False,
            disable_git=True,
            disable_job_creation=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
            x_transaction_log_flush_interval=0.5,
            **further,
        ),
        **of_run,
    )


class WandbRun:
    """The run of one trial."""

    def __init__(self, options: Mapping[str, Any], trial: Trial) -> None:
        global _offline_until
        wandb = _client()
        self.options, self.trial = options, trial
        self.seconds = float(options.get("finish_timeout_s", 20.0))
        self.agent = options.get("agent")
        self.key = self.agent["run"] if self.agent else trial.key
        ending.wait(self.key, self.seconds)
        online = options.get("mode", "offline") == "online"
        if online and time.monotonic() >= _offline_until:
            try:
                self._open(wandb, "online")
                return
            except Exception as error:  # W&B's errors have no common base
                _offline_until = time.monotonic() + OFFLINE_S
                trial.tell(
                    f"tracking=wandb: W&B cannot be reached from a worker ({first_line(error)}); its next runs are "
                    f"offline, `wandb sync {options['dir']}/wandb/offline-run-*` uploads them"
                )
                ending.drain(self.seconds)
                wandb.teardown()  # else the id of the run that could not begin stays "in use"
                wandb = _client()
        self._open(wandb, "offline")

    def _open(self, wandb: Any, mode: str) -> None:
        self.earlier = self._folders() if mode == "offline" else []
        own: dict[str, Any] = {"name": self.trial.name}
        if self.agent and not self.agent.get("own"):  # W&B has given it a name
            own = {}
        self.run = _begin(
            wandb,
            self.options,
            mode,
            self.trial.stop,
            id=self.key,
            group=self.trial.sweep,
            job_type="trial",
            config=self._config(),
            agent=self.agent,
            **own,
        )
        # The server has the rows before it; `run.step` of a run that is taken up is 0 (wandb 0.31).
        self.known = int(self.run.starting_step or 0) if self.run.resumed else 0
        self._online = mode == "online"

    def _config(self) -> dict[str, Any]:
        """The trial's, each parameter under the one name by which an agent's sweep knows it."""
        names = set(self.agent["names"]) if self.agent else set()
        return {
            next((n for n in (name, f"space.{name}") if n in names), name): value
            for name, value in self.trial.config.items()
        }

    def _folders(self) -> list[Path]:
        """Where offline runs of this trial lie."""
        folder = re.compile(rf"offline-run-\d{{8}}_\d{{6}}-{re.escape(self.key)}(-[^-]+)?")
        found = Path(self.options["dir"], "wandb").glob("offline-run-*")
        return sorted(path for path in found if folder.fullmatch(path.name))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if step >= self.known:
            self.run.log(dict(metrics), step=step, commit=True)

    def summary(self, values: Mapping[str, float], status: str, reason: str) -> None:
        shown = "pruned" if status == "paused" else status
        self.run.summary.update({**values, "status": shown, "reason": reason})
        self.run.tags = (*(tag for tag in self.run.tags or () if tag not in STATUSES), shown)

    def finish(self, status: str) -> None:
        if (
            status == "interrupted" and not self.agent
        ):  # W&B would give an agent's run to another agent at once
            self.run.mark_preempting()
        goes_on = status in (
            "interrupted",
            "paused",
        )  # perhaps at once, in another process: not before this one ends
        seconds = INTERRUPT_S if status == "interrupted" else self.seconds + 1
        done = ending.end(self.key, lambda: self._end(status), seconds, together=goes_on)
        if goes_on and not done:
            self._late()

    def _end(self, status: str) -> None:
        try:
            began = time.monotonic()
            self.run.finish(exit_code=EXIT_CODES.get(status, 0))
            own = Path(self.run.dir).parent
            for folder in self.earlier:  # this run holds their rows
                if folder != own:
                    shutil.rmtree(folder, ignore_errors=True)
            if self._online and time.monotonic() - began >= self.seconds:
                self._late()
        except Exception as error:  # tracking never fails a trial
            self.trial.tell(f"tracking=wandb: a run did not end cleanly in a worker: {first_line(error)}")

    def _late(self) -> None:
        global _offline_until
        _offline_until = time.monotonic() + OFFLINE_S
        self.trial.tell(
            f"tracking=wandb: W&B takes longer than tracking.finish_timeout_s={self.seconds:g} to take a run; what it "
            f"did not get is on disk, `wandb sync {self.options['dir']}/wandb/*run-*` uploads it"
        )


def summarise(options: Mapping[str, Any], sweep: Sweep) -> None:
    """The sweep's own run: its table of trials, the best, the importance of parameters, the report."""
    wandb = _client()
    agent = options.get("agent_of_sweep")
    own: dict[str, Any] = {} if agent else {"name": sweep.name}
    run = _begin(
        wandb,
        options,
        options.get("mode", "offline"),
        id=agent["run"] if agent else f"{options['token']}-sweep",
        group=sweep.name,
        job_type="sweep",
        config=dict(sweep.config),
        agent=agent,
        **own,
    )
    columns = list(sweep.rows[0]) if sweep.rows else ["trial"]
    table = wandb.Table(
        columns=columns, data=[[row[c] for c in columns] for row in sweep.rows], allow_mixed_types=True
    )
    logged: dict[str, Any] = {"trials": table}
    if sweep.importance:
        rows = [[name, share] for name, share in sweep.importance.items()]
        ranked = wandb.Table(columns=["parameter", "importance"], data=rows)
        logged["importance"] = wandb.plot.bar(ranked, "parameter", "importance", title="Importance")
    if sweep.report:
        logged["report"] = wandb.Html(Path(sweep.report).read_text(), inject=False)
        run.save(sweep.report, base_path=str(Path(sweep.report).parent), policy="now")
    run.log(logged, commit=True)
    shares = {f"importance.{name}": share for name, share in sweep.importance.items()}
    run.summary.update({**sweep.values, **shares, "status": sweep.state})
    run.finish(exit_code=1 if sweep.state == "failed" else 0)
