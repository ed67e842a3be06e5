"""The dashboard's server: pages of a store behind a token, for browsers on this machine.

Whoever has the token sees what is in the store; nothing can be changed by it. A page of another origin cannot read it:
the token's cookie goes to this host and port alone, and a `Host` that is a name of somebody else's (DNS rebinding) is
refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import socket
from collections.abc import Callable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from fairsweep.analysis.store import Store
from fairsweep.cluster import doors
from fairsweep.cluster.jobs.dashboard import pages
from fairsweep.cluster.jobs.dashboard.watching import Watch

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; frame-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
FRAMED = "frame-ancestors 'self'"  # of a report, whose own policy is in it
PROBLEM = POLICY.replace("frame-ancestors 'none'", FRAMED)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "private, no-cache",
}
OURS = {"dashboard.css": "text/css", "index.js": "text/javascript", "live.js": "text/javascript"}
WATCH: web.AppKey[Watch] = web.AppKey("watch", Watch)


def application(store: Store, token: str, host: str, make_page: Callable[[str], str]) -> web.Application:
    """The pages of `store`. host: what is listened on. make_page: see `Watch`."""
    app = web.Application(middlewares=[_guard(token, host)])
    app[WATCH] = Watch(store, make_page)
    app.add_routes(
        [
            web.get("/", _index),
            web.get("/index.json", _index_rows),
            web.get("/run/{name}", _live),
            web.get("/run/{name}/report", _report),
            web.get("/run/{name}/version", _version),
            web.get("/ours/{file}", _ours),
        ]
    )

    async def end(app: web.Application) -> None:
        app[WATCH].close()

    app.on_cleanup.append(end)
    return app


def may_be_called(name: str, host: str) -> bool:
    """Whether a `Host` is one of this machine's own: an address, localhost, its name, or what is listened on."""
    try:
        port = name.rpartition(":")
        name = port[0] if port[0] and port[2].isdigit() else name
        ipaddress.ip_address(name.strip("[]"))
        return True
    except ValueError:
        return name.lower().rstrip(".") in {"localhost", host.lower(), socket.gethostname().lower()}


def _guard(token: str, host: str) -> Middleware:
    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not may_be_called(request.headers.get("Host", ""), host):
            return _said(403, "403: this dashboard is not called so; open the URL that it printed")
        cookie = _cookie(request)
        given = request.query.get("token")
        if given is not None and doors.same(given, token):
            rest = request.rel_url.without_query_params("token")
            # One slash alone: `//name` would be another host.
            answer: web.StreamResponse = web.Response(
                status=303, headers={"Location": f"/{str(rest).lstrip('/')}"}
            )
            answer.set_cookie(cookie, token, httponly=True, samesite="Lax", path="/")
        elif not doors.same(request.cookies.get(cookie, ""), token):
            return _said(403, "403: needs the token; open the URL that `fairsweep dashboard` printed")
        else:
            try:
                answer = await handler(request)
            except web.HTTPException as error:
                return _said(error.status, f"{error.status}: {error.reason}")
        answer.headers.setdefault("Content-Security-Policy", POLICY)
        for key, value in HEADERS.items():
            answer.headers.setdefault(key, value)
        return answer

    return guard


def _cookie(request: web.Request) -> str:
    """Cookies of one host go to all of its ports: each has its own."""
    where = request.transport.get_extra_info("sockname") if request.transport else None
    return f"fairsweep-{where[1] if isinstance(where, tuple) else 0}"


def _said(status: int, line: str) -> web.Response:
    return web.Response(
        status=status, text=line + "\n", headers={**HEADERS, "Content-Security-Policy": POLICY}
    )


# -- what is answered -----------------------------------------------------------------------------------------


def _once(request: web.Request, text: str, kind: str, version: str) -> web.Response:
    """`text`, or 304 if the browser has it in this version."""
    tag = f'"{version}"'
    if tag in request.headers.get("If-None-Match", ""):
        return web.Response(status=304, headers={"ETag": tag})
    return web.Response(text=text, content_type=kind, headers={"ETag": tag})


async def _index(request: web.Request) -> web.Response:
    return web.Response(text=pages.index(request.app[WATCH].store.uri), content_type="text/html")


async def _index_rows(request: web.Request) -> web.Response:
    text = pages.index_rows(await request.app[WATCH].index())
    return _once(request, text, "application/json", pages.version_of(text))


async def _name(request: web.Request) -> str:
    name = request.match_info["name"]
    if not await request.app[WATCH].known(name):
        raise web.HTTPNotFound(reason="the store has no sweep, comparison or run of claims of this name")
    return name


async def _live(request: web.Request) -> web.Response:
    return web.Response(text=pages.live(await _name(request)), content_type="text/html")


async def _report(request: web.Request) -> web.Response:
    kept = await request.app[WATCH].page(await _name(request))
    made, problem = kept.value
    answer = _once(request, made or pages.problem(problem), "text/html", kept.version)
    answer.headers["Content-Security-Policy"] = FRAMED if made else PROBLEM
    return answer


async def _version(request: web.Request) -> web.Response:
    kept = await request.app[WATCH].page(await _name(request), wait=False)
    return _once(request, pages.version(kept.version), "application/json", kept.version)


async def _ours(request: web.Request) -> web.Response:
    kind = OURS.get(request.match_info["file"])
    if kind is None:
        raise web.HTTPNotFound(reason="no such file")
    text = pages.style() if kind == "text/css" else pages.own(request.match_info["file"])
    return _once(request, text, kind, pages.version_of(text))


# -- running --------------------------------------------------------------------------------------------------


def url_of(listening: socket.socket, host: str, path: str, token: str) -> str:
    """Where a browser finds the dashboard; what listens on every address is called by the machine's name."""
    return f"http://{doors.called(listening, host)}{path}?token={token}"


async def serve(
    app: web.Application, listening: socket.socket, ready: Callable[[], None] = lambda: None
) -> None:
    """Answers until the process is told to end (SIGINT, SIGTERM) or the task is cancelled."""
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    await web.SockSite(runner, listening).start()
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    with contextlib.suppress(
        NotImplementedError, RuntimeError, ValueError
    ):  # Windows; a thread that is not the first
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, ended.set)
    ready()
    try:
        await ended.wait()
    finally:
        await runner.cleanup()
