"""`mlc_llm serve`: from the command line to a running server, and back to an exit code.

Order is what makes the start fast: the port is taken and the engine process started before the web
framework is imported. While the engine loads, the server answers 503 and says why.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import uvloop

from mlc_api.arguments import Arguments, parse
from mlc_api.console import Console
from mlc_api.engine import ServedEngine
from mlc_api.listener import open_listener
from mlc_api.prompt_thread import run_soon_when_woken
from mlc_api.settings import MAX_BODIES_BYTES, WebSettings
from mlc_api.tls import check_tls
from mlc_llm import __version__
from mlc_llm.models.resolve import PACKAGED_NAME, resolve_model
from mlc_llm.serve.config import to_spec
from mlc_llm.started import settle_down

LATE = {"web": "mlc_api.web"}
"""Imported when the engine process is on its way."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main(argv: Sequence[str], engine_command: Sequence[str] | None = None) -> int:
    """Serve until a signal comes; 0 then. Raises `MLCError` for what keeps it from serving.

    `engine_command` stands in for the engine program, for tests.
    """
    _open_standard_streams()
    arguments = parse(argv)
    logging.basicConfig(level=arguments.log_level.upper(), format="%(levelname)s: %(message)s")
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    folder = resolve_model(arguments.model)
    spec = to_spec(
        arguments.config,
        str(folder),
        arguments.device,
        quantization=arguments.quantization,
        enable_tracing=arguments.enable_tracing,
        max_waiting=arguments.max_waiting,
    )
    settings = _settings(arguments)
    if settings.tls is not None:
        check_tls(settings.tls)
    with open_listener(settings.host, settings.port) as listener:
        console = Console(arguments.log_level)
        engine = ServedEngine(spec, console.progress, engine_command)
        return uvloop.run(_Life(settings, folder, engine, listener, console).run())


def _open_standard_streams() -> None:
    """A server may be started without them; their numbers must not become those of our pipes."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def _settings(arguments: Arguments) -> WebSettings:
    return WebSettings(
        model_id=arguments.model_id or arguments.model or PACKAGED_NAME,
        version=__version__,
        host=arguments.host,
        port=arguments.port,
        api_keys=arguments.api_keys,
        tls=arguments.tls,
        max_body_bytes=arguments.max_body_bytes,
        max_bodies_bytes=max(MAX_BODIES_BYTES, arguments.max_body_bytes),
        cors=arguments.cors,
        parsers=arguments.config.parsers,
        enable_debug=arguments.enable_debug,
        enable_tracing=arguments.enable_tracing,
        access_log=arguments.log_level == "debug",
    )


class _Life:
    """One run of the server: start, serve, stop."""

    def __init__(
        self,
        settings: WebSettings,
        folder: Path,
        engine: ServedEngine,
        listener: socket.socket,
        console: Console,
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._listener = listener
        self._console = console
        self._engine = engine
        self._stop = asyncio.Event()
        self._decisions: tuple[str, ...] = ()

    async def run(self) -> int:
        """Until a signal; raises what the engine says when it cannot start."""
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._signalled, number)
        starting = asyncio.create_task(self._start_engine())
        await asyncio.sleep(0)  # now the engine process is on its way
        try:
            web: Any = import_module(LATE["web"])
            model = web.load_model(self._settings, self._folder)
            self._decisions = model.decisions
            server = web.make_web(self._settings, model, self._engine)
            serving = asyncio.create_task(server.serve(sockets=[self._listener]))
            try:
                await self._until_over(starting, serving)
            finally:
                await self._shut_down(server, serving)
        finally:
            await self._end_engine(starting)
        return 0

    async def _start_engine(self) -> None:
        ready = await self._engine.start()
        settle_down()
        run_soon_when_woken()
        self._console.decisions((*ready.decisions, *self._decisions))
        host, port = self._listener.getsockname()[:2]
        scheme = "http" if self._settings.tls is None else "https"
        self._console.address(self._settings.model_id, host, port, scheme)

    async def _until_over(self, starting: asyncio.Task[None], serving: asyncio.Task[None]) -> None:
        """Until a signal or the death of the server; raises when there is no engine to serve."""
        stop = asyncio.create_task(self._stop.wait())
        lost = asyncio.create_task(self._until_no_engine(starting))
        try:
            await asyncio.wait({lost, serving, stop}, return_when=asyncio.FIRST_COMPLETED)
            if lost.done() and not self._stop.is_set():
                lost.result()
        finally:
            stop.cancel()
            lost.cancel()

    async def _until_no_engine(self, starting: asyncio.Task[None]) -> NoReturn:
        await asyncio.shield(starting)
        await self._engine.until_given_up()

    async def _shut_down(self, server: Any, serving: asyncio.Task[None]) -> None:
        """Accept no more; running answers have a short time, then they end with an error."""
        server.stop()
        await asyncio.wait({serving}, timeout=self._settings.graceful_seconds)
        await self._engine.stop()
        await serving

    async def _end_engine(self, starting: asyncio.Task[None]) -> None:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await self._engine.stop()

    def _signalled(self, number: int) -> None:
        """The first one stops in order. Only Ctrl-C is taken as impatience: `timeout`, shells and
        supervisors signal a process and its group, so that SIGTERM comes twice.
        """
        if self._stop.is_set():
            if number != signal.SIGINT:
                return
            sys.stdout.flush()
            os._exit(128 + number)  # the engine sees its lifeline end and goes as well
        self._stop.set()
        self._console.stopping()
