"""Jobs without a cluster: what is said of a job server, how a log is followed, whose exit code it is; the laptop's."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from fairsweep.analysis.store import Store
from fairsweep.cluster.cli import run_cli
from fairsweep.cluster.copies import at_hand
from fairsweep.cluster.errors import DriverEnded, UserError
from fairsweep.cluster.jobs import submitted
from fairsweep.cluster.service import jobs, laptop
from fairsweep.cluster.storage import locate

ONE_HOST = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
FIRST = "Running entrypoint for job j1: exec python -m fairsweep.cluster run\n"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, without a token, and no address in the environment."""
    for name in (*jobs.VARIABLES, "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")  # put back afterwards
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


# -- the job server ----------------------------------------------------------------------------------------------


def test_the_address_is_the_options_a_variables_or_the_laptops(monkeypatch: pytest.MonkeyPatch) -> None:
    assert jobs.where(None) == (jobs.USUAL, jobs.USUAL)
    monkeypatch.setattr(laptop, "job_server", lambda: "http://127.0.0.1:9")
    assert jobs.where(None) == ("http://127.0.0.1:9", "`fairsweep local`")
    monkeypatch.setenv("RAY_ADDRESS", "http://b:1")
    assert jobs.where(None) == ("http://b:1", "RAY_ADDRESS=http://b:1")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://a:1")
    assert jobs.where(None)[0] == "http://a:1"
    assert jobs.where("http://c:1") == ("http://c:1", "--address=http://c:1")


def test_a_server_that_wants_a_token_is_one_sentence_that_says_what_to_do(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class AuthenticationError(Exception):
        pass

    error, place = AuthenticationError("Authentication required: x\n\nmore"), home / ".ray" / "auth_token"
    said = jobs.refusal(error, "http://a", "--address=http://a")
    assert said.startswith("--address=http://a: the cluster wants its token, and there is none here; copy")
    assert str(place) in said and "chmod 600" in said
    place.parent.mkdir()
    place.write_text("7" * 64)
    said = jobs.refusal(error, "http://a", "--address=http://a")
    assert f"does not take the token in {place}" in said and "777" not in said and "\n" not in said
    monkeypatch.setenv("RAY_AUTH_TOKEN", "8" * 64)
    assert "does not take the token in RAY_AUTH_TOKEN" in jobs.refusal(error, "http://a", "x")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert "unset RAY_AUTH_MODE" in jobs.refusal(error, "http://a", "x")
    assert "is no job server that can be used (404)" in jobs.refusal(RuntimeError("404"), "http://a", "x")


@pytest.mark.parametrize("verb", [["submit", "run", "trainable=dagnn"], ["status"], ["logs"], ["stop", "j"]])
def test_where_nothing_listens_is_one_line(
    verb: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{s.getsockname()[1]}"
    assert run_cli([verb[0], "--address", url, *verb[1:]]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert (
        said.startswith(f"fairsweep: error: --address={url}: no job server answers there;")
        and "local start" in said
    )


@pytest.fixture
def refusing() -> Iterator[str]:
    """A job server that wants another token."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(403 if self.headers.get("Authorization") else 401)
            self.end_headers()
            self.wfile.write(b"Forbidden: Invalid authentication token")

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_without_the_right_token_nothing_is_submitted(
    refusing: str,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With Ray's own client, against a server over loopback."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "9" * 64)
    assert run_cli(["submit", "--address", refusing, "run", "trainable=dagnn"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "does not take the token in RAY_AUTH_TOKEN" in said and "999" not in said


# -- following ----------------------------------------------------------------------------------------------------


class Client:
    """A job server's answers: a log that comes in parts, over connections that break."""

    def __init__(self, parts: list[str], breaks: list[int], states: list[str]) -> None:
        self.parts, self.breaks, self.states = parts, breaks, states

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        until = self.breaks.pop(0) if self.breaks else len(self.parts)
        for part in self.parts[:until]:
            yield part
        if until < len(self.parts):
            raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")

    def get_job_info(self, job: str) -> Any:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if state == "down":
            raise ConnectionError("down")
        return SimpleNamespace(status=state, submission_id=job, metadata={}, driver_exit_code=0)

    def get_job_logs(self, job: str) -> str:
        return "".join(self.parts) + "the last line\n"


def test_a_log_is_said_whole_and_once_over_connections_that_break(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    parts = [FIRST[:9], FIRST[9:] + "one\n", "two\n", "three\n"]
    client = Client(parts, [2, 1, 3], ["RUNNING", "down", "RUNNING", "SUCCEEDED"])
    said: list[str] = []
    about = jobs.follow(client, "j1", said.append)
    assert "".join(said) == "one\ntwo\nthree\nthe last line\n" and jobs.state_of(about) == "SUCCEEDED"
    assert (
        jobs.without_front("2026 INFO job_manager.py:581 -- Runtime env is setting up.\n" + FIRST + "a\nb")
        == "a\nb"
    )
    assert jobs.without_front("pip: no such package\ncut") == "pip: no such package\ncut", (
        "it did not come to run"
    )


def test_a_server_that_stays_away_is_one_line_that_names_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(jobs, "PATIENCE_S", 0.0)
    with pytest.raises(DriverEnded, match="job j1 may go on: `fairsweep logs -f j1`"):
        jobs.follow(Client([], [], ["down"]), "j1", print)


def test_the_exit_code_is_the_sweeps() -> None:
    def code(state: str, record: dict[str, Any] | None = None, own: int | None = None) -> int | None:
        return jobs.outcome(SimpleNamespace(status=state, driver_exit_code=own), record)

    assert code("RUNNING", {"code": None}) is code("PENDING") is None
    assert code("STOPPED", {"code": 130}) == code("STOPPED") == 130
    assert code("FAILED", None, 2) == 2 and code("FAILED") == 1 and code("FAILED", {"code": None}, -9) == 137
    assert code("FAILED", {"code": 130}, 1) == 130 and code("SUCCEEDED", None, 0) == 0


def test_a_job_leaves_its_sweep_and_its_code_in_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store")
    monkeypatch.setattr(submitted, "_open", None)
    submitted.enter(store, "s")
    submitted.ended(0)
    assert not (tmp_path / "store").exists(), "in no job, nothing is written"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"metadata": {"job_submission_id": "j1"}}))
    monkeypatch.setattr(submitted, "_open", None)
    submitted.ended(2)
    assert not (tmp_path / "store").exists(), "what was refused leaves no trace"
    submitted.enter(store, "s")
    record = submitted.read(str(tmp_path / "store"), "j1")
    assert record is not None and (record["sweep"], record["code"], record["ended"]) == ("s", None, None)
    submitted.ended(130)
    about = SimpleNamespace(submission_id="j1", metadata={submitted.STORE: str(tmp_path / "store")})
    record = jobs.record_of(about)
    assert record is not None and record["code"] == 130 and abs(record["ended"] - time.time()) < 60
    assert jobs.record_of(SimpleNamespace(submission_id="j1", metadata={})) is None
    monkeypatch.setattr(jobs, "USUAL", "http://127.0.0.1:1")  # the cluster is gone
    assert run_cli(["status", "j1", "--storage", str(tmp_path / "store"), "--json"]) == 130
    assert run_cli(["status", "j2", "--storage", str(tmp_path / "store")]) == 2
    assert submitted.read(str(tmp_path / "nowhere"), "j1") is None and not (tmp_path / "nowhere").exists()
    assert Store(tmp_path / "store").sweeps() == []


def test_a_job_is_found_by_the_sweep_that_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of several that ran it the one that still runs, else the newest; also where the cluster is gone."""
    store = Store(tmp_path / "store")
    for job, sweep, code in (("j1", "s", 130), ("j2", "s", None), ("j3", "other", 0), ("j4", "s", 0)):
        monkeypatch.setenv(
            "RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"metadata": {"job_submission_id": job}})
        )
        submitted.enter(store, sweep)
        if code is not None:
            submitted.ended(code)
    monkeypatch.setattr(submitted, "_open", None)
    states = {"j1": "STOPPED", "j2": "RUNNING", "j3": "SUCCEEDED", "j4": "SUCCEEDED"}

    def about(job: str) -> Any:
        if job not in states:
            raise RuntimeError("404")
        return SimpleNamespace(
            submission_id=job, status=states[job], start_time=int(job[1:]), end_time=None, entrypoint="e",
            metadata={submitted.STORE: store.uri}, driver_exit_code=None, message="",
        )  # fmt: skip

    client: Any = SimpleNamespace(
        get_job_info=about,
        list_jobs=lambda: [about(job) for job in states],
        get_job_logs=lambda job: f"{job}\n",
    )
    assert jobs.find(client, "s").submission_id == "j2" and jobs.find(client, "j1").submission_id == "j1"
    states["j2"] = "FAILED"
    assert jobs.find(client, "s").submission_id == "j4" and jobs.find(client, "other").submission_id == "j3"
    with pytest.raises(UserError, match="nothing: the cluster has no such job, and none that ran a sweep"):
        jobs.find(client, "nothing")
    with monkeypatch.context() as up:
        up.setattr(jobs, "connect", lambda address: client)
        assert run_cli(["logs", "other"]) == 0 and capsys.readouterr().out == "j3\n"
        assert run_cli(["stop", "s"]) == 0 and "j4 has ended already" in capsys.readouterr().out
        assert run_cli(["status", "s", "--json"]) == 0 and json.loads(capsys.readouterr().out)["job"] == "j4"
    monkeypatch.setattr(jobs, "USUAL", "http://127.0.0.1:1")  # the cluster is gone
    assert (
        run_cli(["status", "other", "--storage", store.uri]) == 0 and "job      j3" in capsys.readouterr().out
    )


def test_a_submitted_jobs_relative_store_is_where_it_was_submitted(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    copy.mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(copy)
    monkeypatch.setenv(submitted.FOLDER, str(tmp_path / "mine"))
    assert locate("store") == str(tmp_path / "mine" / "store")
    monkeypatch.setenv(submitted.FOLDER, "/not/on/this/node")
    assert locate("store") == str(home / "store")


def test_what_a_job_took_along_is_in_each_nodes_own_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = "runtime_resources/working_dir_files/_ray_pkg_1"
    here = tmp_path / "session" / inside
    (here / "along" / "data").mkdir(parents=True)
    monkeypatch.setenv("TUNE_ORIG_WORKING_DIR", str(here))
    assert at_hand(f"/elsewhere/{inside}/along/data") == str(here / "along" / "data")
    assert at_hand(f"/elsewhere/{inside}/gone") == f"/elsewhere/{inside}/gone"
    assert at_hand("/elsewhere/data") == "/elsewhere/data" and at_hand("") == ""


def test_what_the_nodes_lack_is_found_in_the_log() -> None:
    assert jobs.lacking("/usr/bin/python: No module named fairsweep.cluster\n") == "fairsweep.cluster"
    assert jobs.lacking("Traceback\nModuleNotFoundError: No module named 'hydra'\n") == "hydra"
    assert jobs.lacking("all is well\n") == ""


# -- the laptop's cluster --------------------------------------------------------------------------------------------


def test_a_token_is_made_for_oneself_and_one_that_is_there_is_left_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    os.umask(before := os.umask(0o000))
    place = Path(laptop.ensure_token())
    assert place == home / ".ray" / "auth_token" and place.stat().st_mode & 0o777 == 0o600
    assert place.parent.stat().st_mode & 0o777 == 0o700 and re.fullmatch("[0-9a-f]{64}", place.read_text())
    token = place.read_text()
    place.chmod(0o400)
    assert laptop.ensure_token() == str(place)
    assert place.read_text() == token and place.stat().st_mode & 0o777 == 0o400
    assert laptop.token_place() == (str(place), "0400")
    place.chmod(0o644)
    assert "others can read it; chmod 600" in laptop.token_place()[1]
    place.write_text("\n")
    with pytest.raises(UserError, match="is empty; remove it"):
        laptop.ensure_token()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "7" * 64)
    assert laptop.ensure_token() == "RAY_AUTH_TOKEN"
    assert token not in (said := capsys.readouterr()).out + said.err
    os.umask(before)


def test_rays_processes_have_a_token_and_loopback_whatever_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    found = laptop.environment()
    assert found["RAY_AUTH_MODE"] == "token" and found["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert "RAY_ADDRESS" not in found and found["PATH"].startswith(str(Path(sys.executable).parent))
    head, other = (laptop.words_of(n, {"gcs": 1, "job_server": 2}, 2, "/own") for n in (0, 1))
    assert "--dashboard-host=127.0.0.1" in head and "--head" in head and "--num-cpus=2" in head
    assert "--temp-dir=/own" in {*head} & {*other}
    assert "--address=127.0.0.1:1" in other and "--node-ip-address=127.0.0.1" in {*head} & {*other}
    assert not [word for word in (*head, *other) if "0.0.0.0" in word]


def test_only_what_was_started_is_ended(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert laptop.running() is None and run_cli(["local", "stop"]) == 0
    assert run_cli(["local", "status"]) == 1
    assert "local start" in capsys.readouterr().out
    ours = subprocess.Popen([sys.executable, "-c", "import subprocess; subprocess.run(['sleep', '60'])"])
    other = subprocess.Popen(["sleep", "60"])
    created = psutil.Process(ours.pid).create_time()
    nodes = [laptop.Process(ours.pid, created), laptop.Process(other.pid, created - 1000)]
    deadline = time.monotonic() + 30
    while not (children := psutil.Process(ours.pid).children()) and time.monotonic() < deadline:
        time.sleep(0.02)
    cluster = laptop.Cluster("127.0.0.1:1", "http://127.0.0.1:2", 1, time.time(), nodes)
    laptop.folder().mkdir(parents=True, exist_ok=True)
    laptop._note(cluster)
    assert (laptop.folder() / "cluster.json").stat().st_mode & 0o077 == 0
    try:
        assert laptop.running() == cluster and laptop.job_server() == "http://127.0.0.1:2"
        found, new = laptop.start(3, None, print)
        assert found == cluster and not new, "a second start starts nothing"
        began = time.monotonic()
        laptop.stop()  # the test has not asked yet how its children ended, as the first process of a container may not
        assert time.monotonic() - began < laptop.END_S
        assert ours.wait(10) is not None and laptop.until_gone(children, 0.0) == []
        assert other.poll() is None, "another process that has got the id of one of ours"
        assert laptop.running() is None
    finally:
        for process in (ours, other):
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["start", "--nodes", "0"], "--nodes=0: must be a whole number of at least 1"),
        (["stop", "--nodes", "3"], "--nodes=3: goes with local start"),
        (["strat"], "local strat: did you mean start"),
        ([], "local: start|stop|status is missing; see `fairsweep local --help`"),
        (["start", "--cpus", "x"], "--cpus=x: must be a whole number"),
    ],
)
def test_odd_words_of_local(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = run_cli(["local", *words])
    except SystemExit as ended:  # words that argparse does not take
        code = ended.code
    err = capsys.readouterr().err
    assert code == 2 and err.startswith(f"fairsweep: error: {said}") and err.count("\n") == 1


@pytest.mark.parametrize("given", ["a b", "../x", "", ".hidden", "x" * 101])
def test_an_id_is_one_that_a_file_can_have(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["submit", "--id", given, "run", "trainable=dagnn"]) == 2
    assert f"--id={given}: must be letters, digits" in capsys.readouterr().err


def test_the_id_of_plain_ray_leads_out_of_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submitted, "submission", lambda: "../../outside")
    monkeypatch.setattr(submitted, "_open", None)
    submitted.enter(Store(tmp_path / "a" / "store"), "s")
    assert not list(tmp_path.rglob("outside.json"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("ftp://x", "must be http://HOST:8265, HOST:PORT or auto"),
        ("auto", "no Ray cluster runs on this machine"),
    ],
)
def test_an_address_is_named_as_it_was_given(
    given: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))  # no cluster's note in it
    monkeypatch.setenv("RAY_ADDRESS", given)
    assert run_cli(["status"]) == 2
    assert f"error: RAY_ADDRESS={given}: {said}" in capsys.readouterr().err
    monkeypatch.setattr(laptop, "job_server", lambda: "http://127.0.0.1:9")
    assert jobs._server("auto", "x") == "http://127.0.0.1:9"


def test_a_choice_is_named_with_its_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_cli(["space", "dagnn", "--to", "optunas"])
    assert capsys.readouterr().err == "fairsweep: error: --to=optunas: did you mean optuna?\n"


def test_a_cluster_on_loopback_is_found_by_its_own_address(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.dashboard import utils

    seen: list[str | None] = []
    monkeypatch.setattr(jobs, "find_cluster", lambda address: address)
    monkeypatch.setattr(jobs, "_ray_jobs", lambda: seen.append(os.environ.get(ONE_HOST)))
    monkeypatch.setattr(utils, "get_address_for_submission_client", lambda address: f"http://of/{address}")
    for address in ("10.0.0.5:6379", "127.0.0.1:6379"):
        monkeypatch.setenv(ONE_HOST, "x")
        monkeypatch.delenv(ONE_HOST)
        assert jobs._of_cluster(address) == f"http://of/{address}"
    assert seen == [None, "0"], (
        "else Ray, once imported, looks for 127.0.0.1 at the machine's other address, 45 s"
    )


def test_helps_end_with_words_that_the_verb_takes(capsys: pytest.CaptureFixture[str]) -> None:
    """And local start, stop and status have a help each."""
    from fairsweep.cluster.cli import _parser

    verbs = (
        ["submit"],
        ["agent"],
        ["wandb"],
        ["serve"],
        ["doctor"],
        ["manifest"],
        ["local"],
        ["local", "start"],
    )
    for verb in verbs:
        with pytest.raises(SystemExit):
            run_cli([*verb, "--help"])
        examples = capsys.readouterr().out.partition("\nexamples:\n")[2].replace("\\\n", " ").splitlines()
        assert any(line.split()[1:][: len(verb)] == verb for line in examples), verb
        for line in examples:
            words = shlex.split(line.partition(" >")[0].partition(" && ")[0])
            assert words[0] == "fairsweep"
            args, rest = _parser().parse_known_args(words[1:])
            assert args.command == words[1] and all("=" in word for word in rest), line
    said = set()
    for action in ("start", "stop", "status"):
        with pytest.raises(SystemExit):
            run_cli(["local", action, "--help"])
        said.add(capsys.readouterr().out)
    assert len(said) == 3 and sum("--nodes" in text for text in said) == 1
