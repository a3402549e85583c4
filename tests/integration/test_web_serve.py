"""`mlc_llm serve` as a process over the fake engine: start-up, signals, an engine that dies."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests

from support import toy_tokenizers
from support.server import environment, free_port

LAUNCH = """
import sys
from mlc_api.serve import main
from mlc_llm.errors import MLCError
from support.fake_engine import fake_engine
flags, arguments = sys.argv[1].split(), sys.argv[2:]
sleeping = [sys.executable, "-c", "import time; time.sleep(600)"]
try:
    sys.exit(main(arguments, sleeping if flags == ["sleeps"] else fake_engine(*flags)))
except MLCError as error:
    sys.exit(f"error: {error}")
"""
SECONDS = 60
CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 512,
    "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2,
    "num_key_value_heads": 1, "num_hidden_layers": 1, "rms_norm_eps": 1e-5,
    "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder without weights: the fake engine needs none."""
    path = tmp_path_factory.mktemp("toy")
    (path / "config.json").write_text(json.dumps(CONFIG))
    toy_tokenizers.write(path, toy_tokenizers.byte_fallback(["hello"]))
    return path


class Process:
    """A server process; reads its output to find its address."""

    def __init__(
        self, folder: Path, *arguments: str, engine: str = "", closed: bool = False
    ) -> None:
        """`closed`: without standard streams."""
        tests = str(Path(__file__).parents[1])
        env = environment()
        env["PYTHONPATH"] = os.pathsep.join((env["PYTHONPATH"], tests))
        self.popen = subprocess.Popen(
            [
                *(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"] if closed else []),
                *[sys.executable, "-c", LAUNCH, engine, str(folder), "--port", "0", *arguments],
            ],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self.url = ""

    def __enter__(self) -> Process:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self.lines.append(line)
            if found := re.search(r"http://[\d.:]+", line):
                self.url = found[0]
                return self
        raise AssertionError(f"it ended with {self.popen.wait()}: {self.end()}")

    def __exit__(self, *_: object) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
        self.end()

    def end(self) -> tuple[int, str, str]:
        """Wait for the end; exit code, the rest of the output, errors."""
        if self.popen.stdout is None or self.popen.stdout.closed:
            return self.popen.wait(SECONDS), "", ""
        output, errors = self.popen.communicate(timeout=SECONDS)
        return self.popen.returncode, output, errors

    def engine(self) -> psutil.Process:
        """The fake engine."""
        (child,) = psutil.Process(self.popen.pid).children()
        return child


@pytest.fixture
def server(folder: Path) -> Iterator[Process]:
    with Process(folder) as process:
        yield process


def complete(server: Process, **fields: object) -> requests.Response:
    body = {"prompt": [5, 6, 7], **fields}
    return requests.post(f"{server.url}/v1/completions", json=body, timeout=SECONDS)


def test_it_prints_progress_decisions_and_its_address(server: Process, folder: Path) -> None:
    text = "".join(server.lines)
    assert f"Reading {folder}" in text
    assert "This is the fake engine." in text
    assert str(folder) in server.lines[-1]


def test_it_serves_the_model_under_the_name_that_was_typed(server: Process, folder: Path) -> None:
    models = requests.get(f"{server.url}/v1/models", timeout=SECONDS).json()["data"]
    assert [model["id"] for model in models] == [str(folder)]
    answer = complete(server, model=str(folder))
    assert answer.json()["choices"][0]["text"] == " 5 6 7"
    assert complete(server, model="other").json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_order(server: Process, number: signal.Signals) -> None:
    engine = server.engine()
    server.popen.send_signal(number)
    code, _, errors = server.end()
    assert (code, errors) == (0, "")
    assert not engine.is_running()


def test_it_can_be_stopped_when_nobody_reads_what_it_prints(server: Process) -> None:
    assert server.popen.stdout is not None
    server.popen.stdout.close()
    server.popen.send_signal(signal.SIGTERM)
    assert server.popen.wait(SECONDS) == 0
    assert server.popen.stderr is not None
    with server.popen.stderr as errors:
        assert errors.read() == ""


def test_it_serves_without_standard_streams(folder: Path) -> None:
    port = free_port()
    server = Process(folder, "--port", str(port), closed=True)
    server.url = f"http://127.0.0.1:{port}"
    try:
        wait_for_any_answer(f"{server.url}/health")
        wait_for_health(server, 200)
        assert complete(server).status_code == 200
        server.popen.send_signal(signal.SIGTERM)
        assert server.popen.wait(SECONDS) == 0
    finally:
        server.popen.kill()
        server.end()


def test_a_signal_ends_what_is_running_with_an_error(folder: Path) -> None:
    with Process(folder) as server:
        body = {"prompt": [5, 6], "stream": True, "ignore_eos": True}
        with requests.post(
            f"{server.url}/v1/completions", json=body, stream=True, timeout=SECONDS
        ) as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith(b"data: {")
            server.popen.send_signal(signal.SIGTERM)
            server.popen.send_signal(signal.SIGTERM)
            last = [line for line in lines if line][-1]
        code, _, _ = server.end()
    assert json.loads(last[6:])["error"]["code"] == "engine_unavailable"
    assert code == 0


def test_a_signal_lets_a_running_answer_come_to_its_end(folder: Path) -> None:
    with Process(folder) as server:
        body = {"prompt": [5, 6], "stream": True, "ignore_eos": True, "max_tokens": 400}
        with requests.post(
            f"{server.url}/v1/completions", json=body, stream=True, timeout=SECONDS
        ) as answer:
            lines = answer.iter_lines()
            events = [next(lines)]
            for _ in range(3):  # `timeout` and supervisors may send it to us and to our group
                server.popen.send_signal(signal.SIGTERM)
            events += [line for line in lines if line]
        code, _, _ = server.end()
    assert events[-1] == b"data: [DONE]"
    assert json.loads(events[-2][6:])["choices"][0]["finish_reason"] == "length"
    assert code == 0


def test_ctrl_c_while_it_stops_ends_it_at_once(folder: Path) -> None:
    with Process(folder) as server:
        engine = server.engine()
        body = {"prompt": [5, 6], "stream": True, "ignore_eos": True}
        with requests.post(
            f"{server.url}/v1/completions", json=body, stream=True, timeout=SECONDS
        ) as answer:
            next(answer.iter_lines())
            server.popen.send_signal(signal.SIGTERM)
            assert server.popen.stdout is not None
            assert "Ctrl-C ends at once" in server.popen.stdout.readline()
            server.popen.send_signal(signal.SIGINT)
            assert server.popen.wait(SECONDS) == 128 + signal.SIGINT
    engine.wait(SECONDS)


def test_a_killed_engine_fails_its_requests_and_is_replaced(server: Process) -> None:
    body = {"prompt": [5, 6], "stream": True, "ignore_eos": True}
    with requests.post(
        f"{server.url}/v1/completions", json=body, stream=True, timeout=SECONDS
    ) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith(b"data: {")
        server.engine().kill()
        last = [line for line in lines if line][-1]
    assert json.loads(last[6:])["error"]["code"] == "engine_died"
    health = requests.get(f"{server.url}/health", timeout=SECONDS)
    assert health.status_code == 503
    assert "restarted" in health.json()["reason"]
    assert complete(server).json()["error"]["code"] == "engine_unavailable"
    wait_for_health(server, 200)
    assert complete(server).status_code == 200


def test_a_suspended_engine_makes_it_unhealthy_until_it_goes_on(server: Process) -> None:
    engine = server.engine()
    engine.suspend()
    wait_for_health(server, 503)
    reason = requests.get(f"{server.url}/health", timeout=SECONDS).json()["reason"]
    assert reason == "The engine has stopped answering."
    engine.resume()
    wait_for_health(server, 200)
    assert complete(server).status_code == 200


def wait_for_health(server: Process, status: int) -> None:
    pause = threading.Event()
    while requests.get(f"{server.url}/health", timeout=SECONDS).status_code != status:
        pause.wait(0.02)


def test_while_the_engine_loads_it_answers_503_and_can_be_stopped(folder: Path) -> None:
    port = free_port()
    server = Process(folder, "--port", str(port), engine="sleeps")
    server.url = f"http://127.0.0.1:{port}"
    try:
        health = wait_for_any_answer(f"{server.url}/health")
        assert health.status_code == 503
        assert health.json()["reason"] == "The engine is starting."
        refused = complete(server)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "engine_unavailable"
        assert requests.get(f"{server.url}/v1/models", timeout=SECONDS).status_code == 200
        engine = server.engine()
        server.popen.send_signal(signal.SIGTERM)
        assert server.end()[0] == 0
        assert not engine.is_running()
    finally:
        server.popen.kill()


def wait_for_any_answer(url: str) -> requests.Response:
    pause = threading.Event()
    for _ in range(500):
        try:
            return requests.get(url, timeout=SECONDS)
        except requests.ConnectionError:
            pause.wait(0.02)
    raise AssertionError(f"nobody listens at {url}")


def test_an_engine_that_cannot_start_ends_it_with_its_sentence(folder: Path) -> None:
    process = Process(folder, engine="--start-failed BadModel")
    code, _, errors = process.end()
    assert code == 1
    assert errors == "error: The fake engine refuses to start.\n"


def test_a_folder_that_cannot_be_read_ends_it_with_a_sentence(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    code, _, errors = Process(tmp_path).end()
    assert code == 1
    assert "tokenizer.json" in errors
    assert errors.count("\n") == 1


def test_an_engine_that_never_comes_back_ends_it_with_a_sentence(
    folder: Path, tmp_path: Path
) -> None:
    with Process(folder, engine=f"--only-once {tmp_path / 'started'}") as server:
        (engine,) = psutil.Process(server.popen.pid).children()
        engine.kill()
        code, _, errors = server.end()
        assert code == 1
        assert "could not be restarted 6 times in a row" in errors


def test_a_name_with_line_breaks_is_refused_in_one_line() -> None:
    command = [sys.executable, "-m", "mlc_llm", "serve", "no\nsuch\x1b[31m\rmodel"]
    ran = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert len(ran.stderr.splitlines()) == 1
    assert ran.stderr.startswith("mlc_llm serve: error: no model folder was found")
    assert "\x1b" not in ran.stderr


def test_a_taken_port_ends_it_with_a_sentence(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, errors = Process(folder, "--port", str(port)).end()
    assert code == 1
    assert f"port {port}" in errors
    assert errors.count("\n") == 1
