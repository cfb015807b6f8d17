"""Routes and guards: GET alone, from this machine's own page alone. Needs the extra ``web``."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from moesim import paths
from moesim.errors import DoesNotFit, SpecError
from moesim.inputs.scenario_file import scenario_text
from moesim.prediction import predict
from moesim.report.html.page import report_html
from moesim.report.html.watch import Watch
from moesim.web.asked import asked
from moesim.web.fragments import answer
from moesim.web.page import css, page

_SCRIPT = Path(__file__).with_name("page.js")
_POLICY = (
    "default-src 'none'; style-src 'self' 'unsafe-inline'; script-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_MOST_QUERY = 4096
_NAMES = ("127.0.0.1", "localhost", "[::1]")


class Guard:
    """Refuses foreign hosts and origins, other methods and endless addresses; nothing of it reaches a route."""

    def __init__(self, app: Any, hosts: frozenset[str]):
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refused = self._refused(Request(scope))
        if refused:
            await PlainTextResponse(f"moesim: {refused}\n", 403)(scope, receive, send)
            return

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [
                    (b"content-security-policy", _POLICY.encode()), (b"x-content-type-options", b"nosniff"),
                    (b"referrer-policy", b"no-referrer"), (b"cache-control", b"no-store"),
                ]  # fmt: skip
            await send(message)

        await self._app(scope, receive, guarded)

    def _refused(self, request: Request) -> str:
        if request.headers.get("host", "") not in self._hosts:
            return "this page answers only under its own address"
        origin = request.headers.get("origin")
        if origin is not None and origin.removeprefix("http://") not in self._hosts:
            return "this page answers only its own script"
        if request.headers.get("sec-fetch-site") == "cross-site" and request.url.path != "/":
            return "this page answers only its own script"
        return "the address is too long" if len(request.url.query) > _MOST_QUERY else ""


def app(port: int, hosts: tuple[str, ...] = _NAMES) -> Starlette:
    """The application for a port."""
    allowed = frozenset(f"{name}:{port}" for name in hosts) | (frozenset(hosts) if port == 80 else frozenset())
    routes = [
        Route("/", _page), Route("/estimated", _estimated), Route("/simulated", _simulated),
        Route("/page.js", _script), Route("/page.css", _style),
        Route("/{column:str}/scenario.yaml", _scenario), Route("/{column:str}/report.html", _report),
    ]  # fmt: skip
    return Starlette(routes=routes, middleware=[Middleware(Guard, hosts=allowed)])


def serve(host: str, port: int, hosts: tuple[str, ...], ready: Callable[[int], None]) -> None:
    """Serve until stopped; ``ready`` is told the port. Raises OSError where it cannot be had."""
    import uvicorn

    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((host, port))
    # Whoever is told the address may ask at once.
    listening.listen()
    ready(listening.getsockname()[1])
    # Names of models are folders here, and nothing else is.
    os.chdir(paths.MODELS)
    config = uvicorn.Config(app(listening.getsockname()[1], hosts), log_level="warning", access_log=False,
                            server_header=False, limit_concurrency=64)  # fmt: skip
    uvicorn.Server(config).run(sockets=[listening])


async def _page(request: Request) -> Response:
    found = asked(request.query_params)
    body = await run_in_threadpool(answer, found.scenarios, "estimated")
    return HTMLResponse(page(found, body))


async def _estimated(request: Request) -> Response:
    return HTMLResponse(await run_in_threadpool(answer, asked(request.query_params).scenarios, "estimated"))


async def _simulated(request: Request) -> Response:
    return HTMLResponse(await run_in_threadpool(answer, asked(request.query_params).scenarios, "simulated"))


async def _script(request: Request) -> Response:
    return Response(_SCRIPT.read_text(encoding="utf-8"), media_type="text/javascript")


async def _style(request: Request) -> Response:
    return Response(css(), media_type="text/css")


async def _scenario(request: Request) -> Response:
    scenario = asked(request.query_params).scenarios.get(request.path_params["column"])
    if scenario is None or isinstance(scenario, SpecError):
        return PlainTextResponse(f"moesim: {scenario or 'there is no such column'}\n", 400)
    return _file(scenario_text(scenario, "From the what-if page of moesim."), "text/yaml", "scenario.yaml")


async def _report(request: Request) -> Response:
    scenario = asked(request.query_params).scenarios.get(request.path_params["column"])
    if scenario is None or isinstance(scenario, SpecError):
        return PlainTextResponse(f"moesim: {scenario or 'there is no such column'}\n", 400)
    watch = Watch()
    try:
        prediction = await run_in_threadpool(predict, scenario, timeline=watch)
    except (SpecError, DoesNotFit) as error:
        return PlainTextResponse(f"moesim: {error}\n", 400)
    return _file(report_html(prediction, watch=watch), "text/html", "report.html")


def _file(text: str, kind: str, name: str) -> Response:
    return Response(text, media_type=kind, headers={"content-disposition": f'attachment; filename="{name}"'})
