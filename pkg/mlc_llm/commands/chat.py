"""`mlc_llm chat MODEL`: talk to a model in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from mlc_llm.arguments import ArgumentParser
from mlc_llm.commands.chat_session import Piece, Session
from mlc_llm.serve.config import merge, parse_overrides
from mlc_llm.serve.engine import MLCEngine

with suppress(ImportError):
    import readline  # noqa: F401  # lets `input` edit its line

PROMPT = ">>> "


def main(argv: Sequence[str]) -> int:
    """Read lines until there are no more; 0 then. Raises `MLCError`."""
    given = _parser().parse_args(argv)
    is_watched = sys.stderr.isatty()  # loading may take a minute
    config = merge(None, **parse_overrides(given.overrides), verbose=is_watched)
    with MLCEngine(
        given.model,
        given.device,
        model_lib=given.model_lib,
        mode="interactive",
        engine_config=config,
        quantization=given.quantization,
    ) as engine:
        session = Session(_Answers(engine), lambda: engine.metrics().prometheus_text(), _write)
        print("/help lists the commands.")
        while (line := _line()) is not None and session.line(line):
            pass
    return 0


class _Answers:
    """Messages of the engine, piece by piece; leaving them early ends the answer."""

    def __init__(self, engine: MLCEngine) -> None:
        self._engine = engine

    def __call__(
        self, messages: list[dict[str, str]], settings: Mapping[str, Any]
    ) -> Iterator[Piece]:
        reason = None
        with self._engine.chat.completions.create(
            messages=messages,
            stream=True,
            stream_options={"include_usage": True},
            extra_body=dict(settings),
        ) as chunks:
            for chunk in chunks:
                for choice in chunk.choices:
                    reason = choice.finish_reason or reason
                    thought = choice.delta.reasoning_content or ""
                    yield Piece(thought + (choice.delta.content or ""))
                if chunk.usage is not None:
                    yield Piece("", reason, chunk.usage.extra)


def _line() -> str | None:
    try:
        return input(PROMPT)
    except (EOFError, KeyboardInterrupt):
        print()
        return None


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _parser() -> ArgumentParser:
    parser = ArgumentParser("mlc_llm chat", "Talk to a model in the terminal.")
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help="as for `serve` (default: the packaged model)"
    )
    parser.add_argument("--model-lib", help="a compiled library (default: compile and cache one)")
    parser.add_argument("--device", default="auto", help="auto or cpu (default: auto)")
    parser.add_argument("--quantization", help="for a Hugging Face folder, as for `serve`")
    parser.add_argument(
        "--overrides", default="", metavar="K=V;K=V", help="as for `serve` (default: none)"
    )
    return parser
