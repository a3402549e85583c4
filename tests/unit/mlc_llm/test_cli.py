"""The command starts what it is asked for, and explains itself otherwise."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
import types

import pytest

import mlc_llm
from mlc_llm import cli
from mlc_llm.errors import BadModel
from support.shared import REPOSITORY


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A command "try" that notes its arguments and ends with 5, or fails when told to."""
    calls: list[list[str]] = []

    def run(argv: list[str]) -> int:
        calls.append(argv)
        if "--broken" in argv:
            raise BadModel("the folder is empty")
        if "--stopped" in argv:
            raise KeyboardInterrupt
        return 5

    module = types.ModuleType("a_command")
    module.main = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_command", module)
    monkeypatch.setitem(cli.COMMANDS, "try", ("a_command:main", "for tests"))
    return calls


def test_a_command_gets_its_arguments_untouched(received: list[list[str]]) -> None:
    assert cli.main(["try", "MODEL", "--help", "--x=1"]) == 5
    assert received == [["MODEL", "--help", "--x=1"]]


def test_an_error_the_user_can_understand_is_one_line_and_exit_code_1(
    received: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["try", "--broken"]) == 1
    assert capsys.readouterr().err == "mlc_llm try: error: the folder is empty\n"


def test_interrupting_is_not_an_error(received: list[list[str]]) -> None:
    assert cli.main(["try", "--stopped"]) == 130


@pytest.mark.parametrize("argv", [[], ["dance"], ["--loud"]])
def test_a_mistake_prints_the_usage_and_exits_with_2(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(argv)
    assert exit_.value.code == 2
    printed = capsys.readouterr()
    assert "Usage" in printed.out
    assert "serve" in printed.out
    assert "Error" in printed.err


@pytest.mark.parametrize("command", cli.NOT_HERE)
def test_a_command_of_mlc_that_is_missing_says_what_to_do_instead(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([command, "--help"]) == 2
    assert f"`{command}` is not in this version; " in capsys.readouterr().err


@pytest.mark.parametrize("module", ["check_device", "model_metadata"])
def test_the_modules_that_mlc_runs_are_commands(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"mlc_llm.cli.{module}", "--help"],
        env={"PYTHONPATH": str(REPOSITORY / "pkg")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(f"usage: mlc_llm {module}")


@pytest.mark.parametrize("argv", [["--help"], ["serve", "--help"]])
def test_output_that_nobody_reads_ends_a_command_quietly(argv: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "mlc_llm", *argv],
            env={"PYTHONPATH": f"{REPOSITORY / 'pkg'}:{REPOSITORY / 'api'}"},
            stdout=closed,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_a_broken_pipe_that_is_not_the_output_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(argv: list[str]) -> int:
        raise BrokenPipeError

    monkeypatch.setattr(cli, "_load", lambda target: run)
    monkeypatch.setattr(cli, "_reader_is_gone", lambda: False)
    with pytest.raises(BrokenPipeError):
        cli.main(["serve"])


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["--help"])
    assert exit_.value.code == 0
    assert "serve" in capsys.readouterr().out


def test_the_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"mlc_llm {mlc_llm.__version__}\n"
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["version"] == mlc_llm.__version__


def test_importing_the_package_loads_neither_engine_nor_event_loop_nor_compiler() -> None:
    program = (
        "import sys, mlc_llm, mlc_llm.serve, mlc_llm.serve.sizing, mlc_llm.serve.memory;"
        "heavy = ('asyncio', 'tvm', 'tvm_ffi', 'numpy', 'tokenizers');"
        "print([module for module in heavy if module in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(REPOSITORY / "pkg")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_a_name_the_package_lacks_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'ChatModule'"):
        _ = mlc_llm.ChatModule
