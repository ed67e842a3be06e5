"""An S3 server on loopback: moto's, in a process of its own, behind a proxy that can answer 503 for a while."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator

import aiohttp
from aiohttp import web
from yarl import URL

BUCKET = "sweeps"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}  # fmt: skip
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
_HOP = {"host", "connection", "keep-alive", "transfer-encoding", "content-length", "te", "upgrade", "expect"}


def missing() -> str | None:
    """Why there can be no such server here; None if there can."""
    found = importlib.util.find_spec("moto") and importlib.util.find_spec("flask")
    return None if found else "needs moto's server: pip install 'fairsweep[s3-tests]'"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


class Bucket:
    """An empty bucket `sweeps` at `endpoint`, host:port without a scheme."""

    def __init__(self, server: int) -> None:
        self._server = server
        self.asked = self.refused = 0
        self._refuse_until = 0.0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        assert self._ready.wait(30)

    def uri(self, path: str, scheme: str = "s3") -> str:
        return f"{scheme}://{BUCKET}/{path}?endpoint_override={self.endpoint}&scheme=http&region=us-east-1"

    def refuse(self, seconds: float) -> None:
        """Answers 503 to all for so long."""
        self._refuse_until = time.monotonic() + seconds

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._begin())
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _begin(self) -> None:
        self._session = aiohttp.ClientSession(auto_decompress=False)
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.endpoint = f"127.0.0.1:{self._runner.addresses[0][1]}"

    async def _end(self) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _pass_on(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.asked += 1
        if time.monotonic() < self._refuse_until:
            self.refused += 1
            return web.Response(status=503, body=SLOW_DOWN, content_type="application/xml")
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _HOP}
        headers["Host"] = request.headers["Host"]
        where = URL(f"http://127.0.0.1:{self._server}{request.raw_path}", encoded=True)
        async with self._session.request(
            request.method, where, headers=headers, data=body, allow_redirects=False
        ) as answer:
            data = await answer.read()
            kept = {k: v for k, v in answer.headers.items() if k.lower() not in _HOP}
            if request.method == "HEAD" and "Content-Length" in answer.headers:
                kept["Content-Length"] = answer.headers["Content-Length"]
            return web.Response(status=answer.status, headers=kept, body=data or None)


@contextlib.contextmanager
def bucket() -> Iterator[Bucket]:
    """A server with an empty bucket, for as long as the block runs."""
    port = _free_port()
    script = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
    server = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until = time.monotonic() + 60
        while True:
            try:
                made = urllib.request.Request(f"http://127.0.0.1:{port}/{BUCKET}", method="PUT")
                urllib.request.urlopen(made, timeout=5).close()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < until, "moto's server does not start"
                time.sleep(0.1)
        proxy = Bucket(port)
        try:
            yield proxy
        finally:
            proxy.close()
    finally:
        server.kill()
        server.wait()
