"""A real `mlc_llm serve` in a process of its own, for the end-to-end tests."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from types import TracebackType

import psutil
import requests

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 180
STOP_SECONDS = 30


def free_port() -> int:
    """A TCP port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(**more: str) -> dict[str, str]:
    """This process's environment, with the rooms importable whether or not they are installed."""
    rooms = os.pathsep.join(str(ROOT / room) for room in ("pkg", "workers", "api"))
    path = os.pathsep.join(filter(None, (rooms, os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **more}


class Server:
    """Started on entry, answering before the body runs, gone with all its processes on exit."""

    def __init__(self, *arguments: str, env: dict[str, str] | None = None) -> None:
        self.port = free_port()
        self.arguments = arguments
        self.env = environment(**(env or {}))
        self.output: deque[str] = deque(maxlen=500)
        self.process: subprocess.Popen[str] | None = None
        self.reader: threading.Thread | None = None

    @property
    def root(self) -> str:
        """http://host:port"""
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        """What OpenAI clients call base_url."""
        return f"{self.root}/v1"

    @property
    def log(self) -> str:
        """What the server has printed so far."""
        return "".join(self.output)

    def __enter__(self) -> Server:
        command = [sys.executable, "-m", "mlc_llm", "serve", *self.arguments]
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port)],
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.reader = threading.Thread(target=self._read)
        self.reader.start()
        try:
            self.wait_for_health(200, START_SECONDS)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _read(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        with self.process.stdout:
            for line in self.process.stdout:
                self.output.append(line)

    def wait_for_health(self, status: int, seconds: float) -> None:
        """Poll /health until it answers `status`; fails with the log when it does not."""
        assert self.process is not None
        deadline = time.monotonic() + seconds
        pause = threading.Event()
        seen: object = None
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended with {self.process.returncode}\n{self.log}")
            try:
                seen = requests.get(f"{self.root}/health", timeout=5).status_code
            except (requests.ConnectionError, requests.Timeout) as error:
                seen = error
            if seen == status:
                return
            pause.wait(0.02)
        raise AssertionError(f"/health answered {seen}, not {status}\n{self.log}")

    def engine(self) -> psutil.Process:
        """The engine process."""
        assert self.process is not None
        for child in psutil.Process(self.process.pid).children(recursive=True):
            if any("mlc_workers" in word for word in child.cmdline()):
                return child
        raise AssertionError("no engine process is running")

    def stats(self) -> dict[str, float]:
        """The samples of /metrics that have no labels or only the model's name."""
        found: dict[str, float] = {}
        for line in requests.get(f"{self.root}/metrics", timeout=10).text.splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                found[name.split("{", 1)[0]] = float(value)
        return found

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self.process is not None
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the server did not stop\n{self.log}") from None
        finally:
            assert self.reader is not None
            self.reader.join()


def run_cli(*arguments: str, seconds: float = 120, **env: str) -> subprocess.CompletedProcess[str]:
    """Run `mlc_llm ...` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "mlc_llm", *arguments],
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
