"""The command `mlc_llm`: picks a subcommand and starts it by name.

Knows the names of the subcommands and nothing about what they do.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from mlc_llm import __version__
from mlc_llm.arguments import ArgumentParser
from mlc_llm.errors import MLCError, one_line

COMMANDS = {
    "serve": ("mlc_api.serve:main", "serve a model over OpenAI's REST API"),
    "chat": ("mlc_llm.commands.chat:main", "talk to a model in the terminal"),
    "convert_weight": (
        "mlc_llm.commands.convert_weight:main",
        "write a Hugging Face model's weights in MLC's form",
    ),
    "compile": ("mlc_llm.commands.compile:main", "compile a model into a library"),
    "model_metadata": (
        "mlc_llm.commands.model_metadata:main",
        "print what a compiled library says of itself",
    ),
    "check_device": ("mlc_llm.commands.check_device:main", "list the devices that can be used"),
    "gen_config": (
        "mlc_llm.commands.gen_config:main",
        "write mlc-chat-config.json of a Hugging Face model",
    ),
}
"""Subcommand: where its `main(argv) -> int` lives, and what it does."""

NOT_HERE = {
    "package": "only serving is supported",
    "calibrate": "float8 weights need none: activations stay floats here",
    "router": "only serving with one engine is supported",
}
"""Subcommands of MLC LLM that this version lacks, and what to do instead."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 for an error it explained, 2 for wrong arguments.

    When nobody reads what it prints, as behind `| head -1`, it ends as SIGPIPE would end it.
    """
    try:
        try:
            return _run(argv)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        if sys.stdout is None or not _reader_is_gone():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the exit
        return 128 + signal.SIGPIPE


def _reader_is_gone() -> bool:
    """Whether standard output is what broke."""
    poller = select.poll()
    poller.register(sys.stdout, 0)
    return bool(poller.poll(0))


def _run(argv: Sequence[str] | None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    if not arguments:
        parser.error("which command?")
    if arguments[0].startswith("-"):
        parser.parse_args(arguments[:1])  # --help and --version end here, all else is an error
    command, *rest = arguments
    if command in NOT_HERE:
        print(
            f"mlc_llm: error: `{command}` is not in this version; {NOT_HERE[command]}",
            file=sys.stderr,
        )
        return 2
    if command not in COMMANDS:
        parser.error(f"there is no command {command!r}; the commands are {', '.join(COMMANDS)}")
    try:
        return _load(COMMANDS[command][0])(rest)
    except MLCError as error:
        print(f"mlc_llm {command}: error: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> ArgumentParser:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:{width}}  {what}" for name, (_, what) in COMMANDS.items())
    parser = ArgumentParser(
        prog="mlc_llm",
        description=f"Serve large language models on Apache TVM.\n\ncommands:\n{commands}",
        epilog="`mlc_llm COMMAND --help` explains a command.",
    )
    parser.usage = "mlc_llm [--version] [--help] COMMAND ..."
    parser.add_argument("--version", action="version", version=f"mlc_llm {__version__}")
    return parser


def _load(target: str) -> Callable[[list[str]], int]:
    """The function behind "module:function"; only the command that is run is imported."""
    module, function = target.split(":")
    loaded: Callable[[list[str]], int] = getattr(import_module(module), function)
    return loaded
