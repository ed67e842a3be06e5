"""MLflow: a run a trial, nested under the sweep's own; a file store offline, or the server that `tracking.uri` names.

MLflow's runs can be taken up: which run is a trial's is kept in a file of `tracking.dir`, and a row that the run has is
not written again. Rows are sent in batches by a thread of their own, so that a server which is slow or gone holds
nothing up; what it did not take within `tracking.finish_timeout_s` of the end is lost to MLflow, and said.

Since MLflow 3.13 a file store wants MLFLOW_ALLOW_FILE_STORE=true, also of `mlflow ui`; a database in its place
(sqlite:///...) wants the whole package `mlflow`, and does not take many writers at a time.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairsweep.cluster.tracking import Sweep, Trial, ending, first_line

BATCH = 200  # metrics that are sent together; MLflow takes 1000
STATES = {
    "complete": "FINISHED",
    "pruned": "FINISHED",
    "paused": "FINISHED",
    "failed": "FAILED",
    "interrupted": "KILLED",
}
HTTP = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}  # theirs: 7 and 120
INTERRUPT_S = 5.0  # that an interrupted run may take to end
OF_TRIAL = "fairsweep.trial"  # the tag that holds a trial's key


def why_not(options: Mapping[str, Any]) -> str | None:
    """Why MLflow cannot start here; None if it can."""
    try:
        import mlflow  # noqa: F401
    except ImportError:
        return "tracking=mlflow: MLflow is missing; pip install 'fairsweep[mlflow]', or mlflow-skinny"
    return None


def _client(options: Mapping[str, Any]) -> Any:
    uri = str(options["uri"])
    for name, value in HTTP.items():
        os.environ.setdefault(name, value)
    if "://" not in uri or uri.startswith("file:"):
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def prepare(options: Mapping[str, Any], sweep: str) -> dict[str, str]:
    """The experiment, and in it the run of the sweep, which is made if there is none: workers would make several."""
    client, name = _client(options), str(options.get("experiment") or "fairsweep")
    found = client.get_experiment_by_name(name)
    experiment = found.experiment_id if found else client.create_experiment(name)
    about = options.get("about", {})
    run = _known(options, "sweep")
    if run is None:
        tags = {
            OF_TRIAL: f"{options['token']}-sweep",
            "mlflow.source.git.commit": str(about.get("git_commit")),
        }
        run = client.create_run(experiment, tags=tags, run_name=sweep).info.run_id
        _keep(options, "sweep", run)
        _params(client, run, about)
    client.update_run(run, status="RUNNING")
    return {"experiment_id": experiment, "sweep_run": run}


def _note(options: Mapping[str, Any], name: str) -> Path:
    return Path(options["dir"]) / f"{name}.run"


def _known(options: Mapping[str, Any], name: str) -> str | None:
    path = _note(options, name)
    return path.read_text().strip() or None if path.is_file() else None


def _keep(options: Mapping[str, Any], name: str, run: str) -> None:
    path = _note(options, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(run)


def _params(client: Any, run: str, config: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    params = [Param(_word(name), str(value)[:6000]) for name, value in config.items()]
    for k in range(0, len(params), 100):  # MLflow takes no more at a time
        client.log_batch(run, params=params[k : k + 100])


def _word(name: str) -> str:
    """`name` in the letters that MLflow allows."""
    return "".join(c if c.isalnum() or c in "_-. /" else "_" for c in name)


def open_run(options: Mapping[str, Any], trial: Trial) -> MlflowRun:
    return MlflowRun(options, trial)


class MlflowRun:
    """The run of one trial."""

    def __init__(self, options: Mapping[str, Any], trial: Trial) -> None:
        self.trial, self.seconds = trial, float(options.get("finish_timeout_s", 20.0))
        ending.wait(trial.key, self.seconds)
        self.client = _client(options)
        run = _known(options, trial.name) or (self._search(options) if trial.begun else None)
        self._has: dict[str, int] = {}  # metric -> the last step that the run has
        if run is None:
            tags = {
                OF_TRIAL: trial.key,
                "mlflow.parentRunId": options["sweep_run"],
                "mlflow.source.git.commit": str(trial.config.get("git_commit")),
            }
            run = self.client.create_run(options["experiment_id"], tags=tags, run_name=trial.name).info.run_id
            _keep(options, trial.name, run)
            _params(self.client, run, trial.config)
        else:
            self.client.update_run(run, status="RUNNING")
            for name in self.client.get_run(run).data.metrics:
                self._has[name] = max(m.step for m in self.client.get_metric_history(run, name))
        self.run = run
        self._rows: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._sent, self._lost = threading.Event(), 0
        self._until = float("inf")  # monotonic: when sending is given up
        threading.Thread(target=self._send, name=f"fairsweep-mlflow-{trial.name}", daemon=True).start()

    def _search(self, options: Mapping[str, Any]) -> str | None:
        """The trial's run, where the file that names it is not seen from here."""
        asked = f"tags.`{OF_TRIAL}` = '{self.trial.key}'"
        found = self.client.search_runs([options["experiment_id"]], asked, max_results=1)
        return found[0].info.run_id if found else None

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        at = int(1000 * time.time())
        new = [
            (_word(name), value) for name, value in metrics.items() if step > self._has.get(_word(name), -1)
        ]
        for name, value in new:
            self._has[name] = step
            self._rows.put(Metric(name, value, at, step))

    def _send(self) -> None:
        """Sends rows as they come, until the end is among them."""
        over = False
        while not over:
            batch = [self._rows.get()]
            while len(batch) < BATCH and not self._rows.empty():
                batch.append(self._rows.get())
            if batch[-1] is None:  # nothing comes after it
                batch.pop()
                over = True
            wait = 1.0
            while batch:
                try:
                    self.client.log_batch(self.run, metrics=batch)
                    break
                except Exception as error:
                    if time.monotonic() + wait > self._until:
                        self._lost += len(batch)
                        self._why = first_line(error)
                        break
                    time.sleep(wait)
                    wait = min(2 * wait, 10.0)
        self._sent.set()

    def summary(self, values: Mapping[str, float], status: str, reason: str) -> None:
        shown = "pruned" if status == "paused" else status
        self._end_values = dict(values)
        self._end_tags = {"status": shown, "reason": reason}

    _end_values: Mapping[str, float] = {}
    _end_tags: Mapping[str, str] = {}
    _why = ""

    def finish(self, status: str) -> None:
        goes_on = status in (
            "interrupted",
            "paused",
        )  # perhaps at once, in another process: not before this one ends
        seconds = min(INTERRUPT_S, self.seconds) if status == "interrupted" else self.seconds
        self._until = time.monotonic() + seconds
        self._rows.put(None)
        if not ending.end(self.trial.key, lambda: self._end(status), seconds, together=goes_on) and goes_on:
            self._late("")

    def _end(self, status: str) -> None:
        try:
            self._sent.wait()
            if self._lost:
                self._late(f" ({self._why})")
            for name, value in self._end_values.items():
                self.client.log_metric(self.run, f"end/{_word(name)}", value)
            for name, text in self._end_tags.items():
                self.client.set_tag(self.run, name, text)
            self.client.set_terminated(self.run, status=STATES[status])
        except Exception as error:  # tracking never fails a trial
            self.trial.tell(f"tracking=mlflow: a run did not end cleanly in a worker: {first_line(error)}")

    def _late(self, why: str) -> None:
        self.trial.tell(
            f"tracking=mlflow: MLflow takes longer than tracking.finish_timeout_s={self.seconds:g} to take what a run "
            f"reports{why}; the store has all of it, MLflow lacks the rest"
        )


def summarise(options: Mapping[str, Any], sweep: Sweep) -> None:
    """Ends the sweep's own run: its table of trials, the best, the importance of parameters, the report."""
    client, run = _client(options), options["sweep_run"]
    rows = sweep.rows
    client.log_dict(
        run, {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}, "trials.json"
    )
    for name, value in sweep.values.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            client.log_metric(run, f"end/{_word(name)}", value)
        else:
            client.set_tag(run, name, str(value))
    for name, share in sweep.importance.items():
        client.log_metric(run, f"importance/{_word(name)}", share)
    if sweep.report:
        client.log_artifact(run, sweep.report)
    client.set_tag(run, "status", sweep.state)
    client.set_terminated(run, status="FAILED" if sweep.state == "failed" else "FINISHED")
