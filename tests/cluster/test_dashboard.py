"""The dashboard: who may read it, what it answers, and that it reads the store only when there is something new."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from fairsweep.analysis.store import Store
from fairsweep.cluster.cli import run_cli
from fairsweep.cluster.engine.trial import now
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs.dashboard import server, watching
from tests.analysis.test_answering import rows
from tests.cluster.test_conductor import engine
from tests.cluster.test_studies import ROWS, written

TOKEN = "a-token-of-the-test"


def with_client(
    store: Store, look: Callable[[Any], Awaitable[None]], make_page: Any = None, host: str = "127.0.0.1"
) -> None:
    async def run() -> None:
        app = server.application(store, TOKEN, host, make_page or (lambda name: f"<h1>{name}</h1>"))
        async with TestClient(TestServer(app)) as client:
            await look(client)

    asyncio.run(run())


async def allowed(client: Any) -> Any:
    """The client, once it has been at the URL that was printed."""
    async with client.get("/", params={"token": TOKEN}, allow_redirects=False) as answer:
        assert answer.status == 303 and answer.headers["Location"] == "/"
    return client


async def raw(client: Any, path: str) -> str:
    """What is answered to exactly this path."""
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    found = (await reader.read()).decode()
    writer.close()
    return found


def test_without_the_token_there_is_one_line(tmp_path: Path) -> None:
    async def look(client: Any) -> None:
        for path in (
            "/",
            "/index.json",
            "/run/s",
            "/run/s/report",
            "/run/s/version",
            "/ours/index.js",
            "/no",
        ):
            for params in ({}, {"token": "wrong"}, {"token": ""}, {"token": TOKEN + "x"}, {"token": "ä"}):
                async with client.get(path, params=params) as answer:
                    assert (answer.status, (await answer.text()).count("\n")) == (403, 1)
                    assert "token" in await answer.text() and "Set-Cookie" not in answer.headers
        async with client.get("/", headers={"Cookie": "fairsweep-1=x"}) as answer:
            assert answer.status == 403
        await allowed(client)
        async with client.get("/") as answer:
            assert answer.status == 200 and answer.headers["Referrer-Policy"] == "no-referrer"
        assert "\r\nLocation: /elsewhere.org/x?a=1\r\n" in await raw(
            client, f"//elsewhere.org/x?a=1&token={TOKEN}"
        )

    with_client(written(tmp_path), look)


def test_the_cookie_is_of_this_port_and_for_no_script(tmp_path: Path) -> None:
    async def look(client: Any) -> None:
        async with client.get("/", params={"token": TOKEN}, allow_redirects=False) as answer:
            cookie = answer.headers["Set-Cookie"]
        assert cookie.startswith(f"fairsweep-{client.port}={TOKEN};")
        assert "HttpOnly" in cookie and "SameSite=Lax" in cookie

    with_client(written(tmp_path), look)


@pytest.mark.parametrize("host", ["127.0.0.1", "my-machine"])
def test_other_names_for_this_machine_are_refused(tmp_path: Path, host: str) -> None:
    async def look(client: Any) -> None:
        await allowed(client)
        for name in (
            "evil.example",
            "evil.example:80",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "",
        ):
            async with client.get("/", headers={"Host": name}) as answer:
                assert answer.status == 403 and "called" in await answer.text()
        for name in ("localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:8000", "[::1]", host, f"{host}:99"):
            async with client.get("/", headers={"Host": name}) as answer:
                assert answer.status == 200, name

    with_client(written(tmp_path), look, host=host)


def test_it_answers_nothing_but_reading(tmp_path: Path) -> None:
    async def look(client: Any) -> None:
        await allowed(client)
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            async with client.request(method, "/run/s") as answer:
                assert answer.status == 405
        for path in ("/run/t", "/run/%2e%2e%2fs", "/run/s%00", "/run/s/other", "/ours/server.py"):
            async with client.get(path) as answer:
                assert answer.status == 404 and (await answer.text()).count("\n") == 1

    with_client(written(tmp_path), look)


def test_the_list_has_every_sweep_and_run_with_its_progress(tmp_path: Path) -> None:
    store = written(tmp_path, ROWS[:7], "one", close=False)
    engine(tmp_path, "trainable=test_trade", "metric=[val_loss,size]", "budget.trials=4", name="two").run()
    store.write_derived(
        "comparisons", "which", [{**r, "judged": now()} for r in rows([[[0.9, 0.8]], [[0.1, 0.2]]])]
    )
    with store.create("broken", {"paper": "p"}, config_fields=[], metric_names=[]) as writer:
        writer.close(state="finished")
    (tmp_path / "sweeps" / "broken" / "sweep.parquet").write_bytes(b"nothing")

    async def look(client: Any) -> None:
        await allowed(client)
        async with client.get("/index.json") as answer:
            found = {line["name"]: line for line in await answer.json()}
            tag = answer.headers["ETag"]
        assert set(found) == {"one", "two", "which", "broken"}
        one, two = found["one"], found["two"]
        assert (one["done"], one["begun"], one["best"], one["state"]) == (
            6,
            7,
            "val_loss 0.45",
            "driver gone",
        )
        assert (two["done"], two["total"], two["state"]) == (4, 4, "finished") and two["best"].startswith(
            "front of "
        )
        assert found["which"]["what"] == "2 methods on 1 data set" and found["which"]["best"]
        assert found["broken"]["state"] == "damaged" and "sweep.parquet" in found["broken"]["problem"]
        async with client.get("/index.json", headers={"If-None-Match": tag}) as answer:
            assert answer.status == 304

    with_client(store, look)


def test_a_sweep_that_has_just_ended_is_not_called_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = written(tmp_path, ROWS[:2], close=False)
    monkeypatch.setattr(watching, "LEAST_S", 0.3)

    async def look(client: Any) -> None:
        await allowed(client)

        async def state() -> str:
            async with client.get("/index.json") as answer:
                (line,) = await answer.json()
                return str(line["state"])

        with store.open("s") as writer:
            assert await state() == "running"
            writer.close(state="finished")
        seen = [await state()]
        while seen[-1] == "running" and len(seen) < 200:
            await asyncio.sleep(0.02)
            seen.append(await state())
        assert "driver gone" not in seen and seen[-1] == "finished"

    with_client(store, look)


def test_a_comparison_is_listed_from_its_first_search_on() -> None:
    def part(name: str, state: str) -> dict[str, Any]:
        return {"name": name, "kind": "sweep", "of": "which", "searches": 4, "state": state, "created": "1"}

    run = {"name": "which", "kind": "comparisons", "done": 3, "best": "a is best", "created": "2"}
    begun, *_ = watching.together([part("which.a", "running"), part("which.b", "finished")])
    assert (begun["name"], begun["done"], begun["total"], begun["state"]) == ("which", 0, 4, "running")
    assert begun["best"] == "no repeat has ended yet"
    for states, done, wanted in (
        (["finished", "running"], 3, "running"), (["finished", "driver gone"], 3, "driver gone"),
        (["finished"] * 2, 3, "interrupted"), (["finished"] * 2, 4, "finished"),
    ):  # fmt: skip
        found, *_ = watching.together(
            [{**run, "done": done}, *(part(str(k), s) for k, s in enumerate(states))]
        )
        assert (found["state"], found["total"], found["best"]) == (wanted, 4, "a is best")


def test_a_comparison_without_rows_has_a_page_that_says_so(tmp_path: Path) -> None:
    store = written(tmp_path, ROWS[:2], "which.a-d0-0")

    def page(name: str) -> str:
        raise store.unknown(name)

    async def look(client: Any) -> None:
        await allowed(client)
        async with client.get("/run/which/report") as answer:
            assert "which: no repeat has ended yet; this page begins with the first" in await answer.text()
        async with client.get("/run/whic") as answer:
            assert answer.status == 404

    with_client(store, look, page)


def test_a_page_is_made_anew_when_the_store_has_more_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "LEAST_S", 0.0)
    monkeypatch.setattr(watching, "SHARE", 0.0)
    store, made = written(tmp_path), []

    def page(name: str) -> str:
        made.append(store.table("results", name).num_rows)
        return f"<p>{made[-1]} reports</p>"

    async def look(client: Any) -> None:
        await allowed(client)

        async def version() -> str:
            async with client.get("/run/s/version") as answer:
                return str((await answer.json(content_type=None))["version"])

        async def until(wrong: str) -> str:
            for _ in range(500):
                if (found := await version()) != wrong:
                    return found
                await asyncio.sleep(0.01)
            raise AssertionError("no newer version")

        first = await until("")
        async with client.get("/run/s/report") as answer:
            text, tag = await answer.text(), answer.headers["ETag"]
            assert (
                text == f"<p>{made[0]} reports</p>"
                and "frame-ancestors 'self'" in answer.headers["Content-Security-Policy"]
            )
        for _ in range(3):
            assert await version() == first
        assert len(made) == 1
        async with client.get("/run/s/report", headers={"If-None-Match": tag}) as answer:
            assert answer.status == 304
        with store.open("s") as writer:  # while the dashboard has read it
            writer.results(
                [
                    {
                        "trial": "00000-0",
                        "config_id": 0,
                        "seed": 0,
                        "step": 9,
                        "wall_s": 1.0,
                        "time": now(),
                        "metric.val_loss": 0.1,
                    }
                ]
            )
            await until(first)
        async with client.get("/run/s/report") as answer:
            assert await answer.text() == f"<p>{made[0] + 1} reports</p>"
        async with client.get("/run/s") as answer:
            shell = await answer.text()
            assert (
                'data-name="s"' in shell and "script-src 'self'" in answer.headers["Content-Security-Policy"]
            )

    with_client(store, look, page)


def test_what_takes_long_is_read_seldom() -> None:
    kept = watching.Kept("old", "v", "value", time.monotonic() - 30, cost=10.0)
    assert not kept.due("old") and not kept.due("new")
    kept.cost = 5.0
    assert kept.due("new") and not kept.due("old")
    assert watching.Kept().due("any")


@pytest.mark.parametrize("error", [UserError("s: has <b>nothing</b> to show"), ZeroDivisionError("no")])
def test_a_page_that_cannot_be_made_is_a_line(tmp_path: Path, error: Exception) -> None:
    def page(name: str) -> str:
        raise error

    async def look(client: Any) -> None:
        await allowed(client)
        async with client.get("/run/s/report") as answer:
            text = await answer.text()
            assert answer.status == 200 and "<b>nothing" not in text
            assert "s: has &lt;b&gt;" in text or "its page cannot be made (ZeroDivisionError: no)" in text
            assert "frame-ancestors 'self'" in answer.headers["Content-Security-Policy"]

    with_client(written(tmp_path), look, page)


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path)
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen(1)
    port = str(taken.getsockname()[1])
    for words, said in (
        (["--port", port], f"--port={port}: is taken; choose another, or 0 for one that is free"),
        (["--port", "70000"], "--port=70000: must be a whole number from 0 to 65535"),
        (["--port", "-1"], "--port=-1: must be a whole number"),
        (["--port", "web"], "--port=web: must be a whole number"),
        (["--host", "no such host"], "--host=no such host: is no address or name of this machine"),
        (["--host", "203.0.113.7"], "--host=203.0.113.7: cannot be listened on"),
        (["t"], "t: "),
        (["--storage", str(tmp_path / "none")], "no such folder"),
    ):
        words = words if "--storage" in words else [*words, "--storage", str(tmp_path)]
        assert run_cli(["dashboard", *words]) == 2, words
        out, err = capsys.readouterr()
        assert said in err and err.count("\n") == 1 and not out
    taken.close()


@pytest.fixture
def dashboard(tmp_path: Path) -> Any:
    """The verb as a process of its own, over a store with a sweep that runs; its URL."""
    pytest.importorskip("vl_convert")
    store = tmp_path / "store"
    written(store, ROWS[:4], close=False)
    words = [sys.executable, "-m", "cluster", "dashboard", "s", "--storage", str(store)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), Store(store), process
    finally:
        process.kill()
        process.wait()


CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.mark.slow
def test_in_a_browser_the_page_follows_a_running_sweep(dashboard: Any, tmp_path: Path) -> None:
    """`pip install playwright`, and a Chromium."""
    api = pytest.importorskip("playwright.sync_api")
    if not os.path.exists(CHROMIUM):
        pytest.skip(f"{CHROMIUM} is not there")
    url, store, process = dashboard
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/run/s\?token=[\w-]{32}", url)
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            str(tmp_path / "profile"), executable_path=CHROMIUM, args=FLAGS
        )
        page, wrong = browser.pages[0], []
        page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: wrong.append(str(e)))
        loads = []
        page.on("framenavigated", lambda f: loads.append(f.url) if f == page.main_frame else None)
        page.goto(url)
        assert "token" not in page.url

        def until(frame: Any, js: str, most: float = 60.0) -> Any:
            end = time.monotonic() + most
            while not (found := frame.evaluate(js)):
                assert time.monotonic() < end, f"{js}: {wrong}"
                time.sleep(0.1)
            return found

        first = until(page, "() => window.fairsweep && window.fairsweep.version")
        heading = page.frame_locator("iframe:not(.coming)").locator("h1").inner_text()
        times = len(loads)
        with store.open("s") as writer:
            writer.trial("00000-0", value=0.001)
        until(page, f"() => window.fairsweep.version !== '{first}'")
        fresh = page.frame_locator("iframe:not(.coming)").locator("h1").inner_text()
        assert heading != fresh and len(loads) == times and page.locator("iframe").count() == 1
        assert not wrong
        browser.close()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


def test_the_index_is_json_of_standard_kind(tmp_path: Path) -> None:
    store = written(tmp_path, [("complete", ROWS[0][1], float("inf"), [1.0], {})])

    async def look(client: Any) -> None:
        await allowed(client)
        async with client.get("/index.json") as answer:
            (line,) = json.loads(await answer.text(), parse_constant=lambda name: pytest.fail(name))
            assert line["done"] == 1 and line["best"] == ""

    with_client(store, look)
