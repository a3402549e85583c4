"""`mlc_llm serve` as a child of a Python program: `with PopenServer(model) as server: ...`."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import time
from types import TracebackType

from mlc_llm.errors import BadConfig, EngineUnavailable
from mlc_llm.serve.config import OVERRIDES, EngineConfig, EngineMode, check, merge, model_name

_POLL_S = 0.1
_TERMINATE_S = 15.0


class PopenServer:
    """A server in a process of its own, reachable once `start` returns."""

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        device: object = "auto",
        *,
        model_lib: str | None = None,
        mode: EngineMode | None = None,
        engine_config: EngineConfig | None = None,
        enable_debug: bool = True,
        enable_tracing: bool = False,
        host: str = "127.0.0.1",
        port: int = 8082,
        start_timeout_s: float = 600.0,
    ) -> None:
        """Nothing runs yet: use `start` or `with`. Raises `BadConfig`."""
        config = merge(
            engine_config,
            model=model_name(model),
            model_lib=model_lib,
            mode=mode,
        )
        check(config)
        self.host, self.port = host, port
        self.base_url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        self.openai_v1_base_url = f"{self.base_url}/v1"
        self._command = [sys.executable, "-m", "mlc_llm", "serve", *arguments(config)]
        self._command += ["--device", str(device), "--host", host, "--port", str(port)]
        self._command += ["--enable-debug"] if enable_debug else []
        self._command += ["--enable-tracing"] if enable_tracing else []
        self._start_timeout_s = start_timeout_s
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it is healthy.

        Raises `BadConfig` when it ends instead (it has said why on standard error), and
        `EngineUnavailable` when it takes longer than `start_timeout_s`.
        """
        if self._process is not None:
            return
        self._process = subprocess.Popen(self._command, env=_environment())
        try:
            self._wait_until_healthy(self._process)
        except BaseException:
            self.terminate()
            raise

    def terminate(self) -> None:
        """End the server and wait for its end; idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_TERMINATE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _wait_until_healthy(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self._start_timeout_s
        while not self._is_healthy():
            try:
                code = process.wait(_POLL_S)
            except subprocess.TimeoutExpired:
                if time.monotonic() > deadline:
                    raise EngineUnavailable(
                        f"the server was not healthy after {self._start_timeout_s:g} s"
                    ) from None
            else:
                raise BadConfig(f"the server ended with exit code {code}; see what it printed")

    def _is_healthy(self) -> bool:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def __enter__(self) -> PopenServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.terminate()


def arguments(config: EngineConfig) -> list[str]:
    """The command line of `mlc_llm serve` that says the same as `config`."""
    found = [] if config.model is None else [config.model]
    found += ["--mode", config.mode or "local"]
    if config.model_lib is not None:
        found += ["--model-lib", config.model_lib]
    unset = EngineConfig()
    overrides = {
        field: f"{key}={getattr(config, field)}"
        for key, (field, _) in OVERRIDES.items()
        if getattr(config, field) != getattr(unset, field)
    }
    if overrides:
        found += ["--overrides", ";".join(overrides.values())]
    return found


def _environment() -> dict[str, str]:
    """This program's, with its own import path, so that the child finds the same packages."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return {**os.environ, "PYTHONPATH": path}
