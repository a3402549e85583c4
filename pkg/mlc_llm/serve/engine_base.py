"""What both engines have in common: open a model, start its engine process, end it.

Knows the order of things at start-up; the parts are `serve.config`, `serve.prepare` and
`serve.running`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Literal, Self

from msgspec.structs import replace

from mlc_llm.errors import one_line
from mlc_llm.models.resolve import PACKAGED_NAME, resolve_model
from mlc_llm.protocol.messages import Progress, Ready
from mlc_llm.protocol.requests import ChatCompletionRequest, CompletionRequest
from mlc_llm.serve.completions import TextSide
from mlc_llm.serve.config import EngineConfig, EngineMode, merge, model_name, to_spec
from mlc_llm.serve.request.prepare import Prepared, ServedModel, prepare_chat, prepare_completion
from mlc_llm.serve.running import RunningEngine


class TraceRecorder:
    """`engine.state.trace_recorder`: the events of all requests."""

    def __init__(self, engine: RunningEngine) -> None:
        self._engine = engine

    def dump_json(self) -> str:
        """Chrome trace events as a JSON list; for chrome://tracing and Perfetto."""
        return self._engine.run(self._engine.trace()).decode()


class EngineState:
    """`engine.state`, as MLC LLM has it."""

    def __init__(self, engine: RunningEngine, enable_tracing: bool) -> None:
        self.trace_recorder = TraceRecorder(engine) if enable_tracing else None


class MLCEngineBase:
    """A model that is ready to answer. Use `MLCEngine` or `AsyncMLCEngine`."""

    engine_config: EngineConfig
    """The configuration with every decision filled in."""
    max_input_sequence_length: int
    """Most tokens of a prompt."""
    state: EngineState

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        device: object = "auto",
        *,
        model_lib: str | None = None,
        mode: EngineMode | None = None,
        engine_config: EngineConfig | None = None,
        quantization: str | None = None,
        additional_models: list[str | tuple[str, str]] | None = None,
        max_batch_size: int | None = None,
        max_total_sequence_length: int | None = None,
        prefill_chunk_size: int | None = None,
        max_history_size: int | None = None,
        gpu_memory_utilization: float | None = None,
        speculative_mode: Literal["disable", "small_draft", "eagle", "medusa"] | None = None,
        spec_draft_length: int | None = None,
        enable_tracing: bool = False,
        verbose: bool | None = None,
    ) -> None:
        """Open `model`, start an engine process on `device`, return when it takes requests.

        `model` is a Hugging Face or MLC folder, or a name that is searched; None is the model that
        comes with the package. `device` is "auto", "cpu", "cuda", "cuda:1"... `mode` (None stands
        for "local") fills the limits that are left open. `quantization` is for Hugging Face
        folders. The keywords from `additional_models` on are fields of `engine_config`, under the
        names they had before there was one. Raises `BadModel` or `BadConfig`.
        """
        config = merge(
            engine_config,
            model=model_name(model),
            model_lib=model_lib,
            mode=mode,
            additional_models=additional_models,
            max_batch_size=max_batch_size,
            max_total_sequence_length=max_total_sequence_length,
            prefill_chunk_size=prefill_chunk_size,
            max_history_size=max_history_size,
            gpu_memory_utilization=gpu_memory_utilization,
            speculative_mode=speculative_mode,
            spec_draft_length=spec_draft_length,
            verbose=verbose,
        )
        path = resolve_model(config.model)
        spec = to_spec(
            config,
            str(path),
            str(device),
            quantization=quantization,
            enable_tracing=enable_tracing,
        )
        served = ServedModel.load(path, config.model or PACKAGED_NAME, config.parsers)
        report = _Report() if config.verbose else None
        engine = RunningEngine.start(spec, on_progress=report)
        if report is not None:
            report.decisions((*engine.ready.decisions, *served.decisions))
        self._attach(engine, _ModelText(served, engine.ready), config, enable_tracing)

    @classmethod
    def over(
        cls,
        engine: RunningEngine,
        text: TextSide,
        config: EngineConfig,
        *,
        enable_tracing: bool = False,
    ) -> Self:
        """Take over an engine that runs already."""
        made = cls.__new__(cls)
        made._attach(engine, text, config, enable_tracing)
        return made

    def _attach(
        self, engine: RunningEngine, text: TextSide, config: EngineConfig, enable_tracing: bool
    ) -> None:
        ready = engine.ready
        self._engine = engine
        self._text = text
        self.state = EngineState(engine, enable_tracing)
        self.engine_config = replace(
            config,
            mode=config.mode or "local",
            max_num_sequence=ready.max_num_sequence,
            max_total_sequence_length=ready.max_total_sequence_length,
            max_single_sequence_length=ready.max_single_sequence_length,
            prefill_chunk_size=ready.prefill_chunk_size,
        )
        self.max_input_sequence_length = ready.max_single_sequence_length

    def terminate(self) -> None:
        """End the engine process; requests in flight fail with `EngineUnavailable`. Idempotent.

        Also done when the engine is dropped and when the program ends.
        """
        self._engine.terminate()


class _ModelText:
    """The text side of a model that is served within these limits."""

    def __init__(self, model: ServedModel, ready: Ready) -> None:
        self._model = model
        self._ready = ready

    async def chat(self, request: ChatCompletionRequest, request_id: str) -> Prepared:
        """Checked, rendered by the chat template, tokenized."""
        return await prepare_chat(request, self._model, self._ready, request_id, with_extra=True)

    async def completion(self, request: CompletionRequest, request_id: str) -> Prepared:
        """Checked and tokenized."""
        return await prepare_completion(
            request, self._model, self._ready, request_id, with_extra=True
        )


class _Report:
    """Prints to standard error what happens at start-up."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, progress: Progress) -> None:
        """One line per stage and message; its fraction is for progress bars."""
        line = f"[{progress.stage}] {one_line(progress.message)}"
        if line != self._last:
            self._last = line
            print(line, file=sys.stderr, flush=True)

    def decisions(self, decisions: Sequence[str]) -> None:
        for decision in decisions:
            print(f"[ready] {one_line(decision)}", file=sys.stderr, flush=True)
