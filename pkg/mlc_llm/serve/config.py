"""How an engine is configured: `EngineConfig`, the command line's overrides, the engine's order.

Every way to configure (the constructor's keywords, `EngineConfig`, `--overrides`) ends in one
`EngineConfig`, and `to_spec` turns that into what the engine process is told. Values left at None
are decided there, from the model and the memory that is really free (see `serve.sizing`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Struct
from msgspec.structs import fields, replace

from mlc_llm.errors import BadConfig
from mlc_llm.protocol.spec import EngineSpec, KvCacheDtype
from mlc_llm.serve.parsers import Parsers, ToolArguments
from mlc_llm.tools.formats import thoughts_by_name, tools_by_name

EngineMode = Literal["local", "interactive", "server"]
SpeculativeMode = Literal["disable", "small_draft", "eagle", "medusa"]

_DEVICE = re.compile(r"(auto|cpu)(:0)?|(cuda|rocm|metal|vulkan|opencl)(:\d+)?")


class EngineConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that can be said about an engine. None: the engine decides and says why."""

    model: str | None = None
    """The model; when given it must be the constructor's."""
    model_lib: str | None = None
    """A compiled library of the model; None compiles and caches one."""
    additional_models: list[str | tuple[str, str]] = []
    """Draft models for speculative decoding, as path, "path:lib" or (path, lib)."""
    mode: EngineMode | None = None
    """Which preset fills the limits below; None is "local"."""
    tensor_parallel_shards: int | None = None
    pipeline_parallel_stages: int | None = None
    opt: str | None = None
    """Optimization level of the compiler."""
    gpu_memory_utilization: float | None = None
    """Share of the free memory that weights, KV cache and buffers may take; None is 0.85."""
    kv_cache_page_size: int = 16
    """Tokens per page of the KV cache; only 16."""
    kv_cache_dtype: KvCacheDtype = "auto"
    """What keys and values are kept in; "auto": 16 or 32 bits, as the quantization has it. "int8"
    takes half the memory of 16 bits, and is read in less time."""
    max_num_sequence: int | None = None
    """Most sequences that generate at the same time."""
    max_total_sequence_length: int | None = None
    """Tokens that the KV cache holds, all sequences together."""
    max_single_sequence_length: int | None = None
    """Most tokens of one sequence, prompt and output."""
    prefill_chunk_size: int | None = None
    """Most tokens one step computes."""
    sliding_window_size: int | None = None
    """-1: none."""
    attention_sink_size: int | None = None
    max_history_size: int | None = None
    """Of models with a recurrent state; 0 for all others."""
    kv_state_kind: Literal["kv_cache", "rnn_state"] | None = None
    speculative_mode: SpeculativeMode = "disable"
    spec_draft_length: int = 0
    """Tokens per proposal; without meaning while speculative decoding is off."""
    spec_tree_width: int = 1
    prefix_cache_mode: Literal["disable", "radix"] = "radix"
    """Whether keys and values of a prompt's beginning are kept for the next request."""
    prefix_cache_max_num_recycling_seqs: int | None = None
    """Ended sequences that the prefix cache keeps; 0: none, -1: as many as fit."""
    prefill_mode: Literal["hybrid", "chunked"] = "hybrid"
    """Whether a step may hold prefill and decode (hybrid) or one of them."""
    tool_call_parser: str | None = None
    """How the model writes calls of tools, by name; None: what its chat template shows."""
    reasoning_parser: str | None = None
    """How it marks its thoughts, by name, or "none"; None: what its chat template shows."""
    tool_call_arguments: ToolArguments = "string"
    """How whole answers have the arguments of calls: as JSON, or as the object MLC LLM gave."""
    verbose: bool = True
    """Whether to print what was decided at start-up."""

    @property
    def parsers(self) -> Parsers:
        """How answers are read."""
        return Parsers(
            tool_call=self.tool_call_parser,
            reasoning=self.reasoning_parser,
            tool_arguments=self.tool_call_arguments,
        )

    def asjson(self) -> str:
        """All fields as a JSON object."""
        return msgspec.json.encode(self).decode()

    @staticmethod
    def from_json(json_str: str) -> EngineConfig:
        """The config that `asjson` wrote; raises `BadConfig`."""
        try:
            return msgspec.json.decode(json_str, type=EngineConfig)
        except msgspec.DecodeError as error:
            raise BadConfig(f"this is not an engine configuration: {error}") from None


# --- keywords of the constructors -----------------------------------------------------------

SEED_KEYWORDS = {
    "additional_models": "additional_models",
    "max_batch_size": "max_num_sequence",
    "max_total_sequence_length": "max_total_sequence_length",
    "prefill_chunk_size": "prefill_chunk_size",
    "max_history_size": "max_history_size",
    "gpu_memory_utilization": "gpu_memory_utilization",
    "speculative_mode": "speculative_mode",
    "spec_draft_length": "spec_draft_length",
    "verbose": "verbose",
}
"""Keywords that MLC LLM's constructors had before `EngineConfig`, and the fields they are today."""


def model_name(model: object) -> str | None:
    """What a constructor was given for its model, as text; None is None. Raises `BadConfig`."""
    name = os.fspath(model) if isinstance(model, os.PathLike) else model
    if name is not None and not isinstance(name, str):
        raise BadConfig(f"model must be a path or a name, not {model!r}")
    return name


def merge(config: EngineConfig | None, **given: object) -> EngineConfig:
    """`config` with the fields that were also given as arguments; None means not given.

    Raises `BadConfig` when an argument and the config say different things.
    """
    if config is None:
        config = EngineConfig()
    elif not isinstance(config, EngineConfig):
        raise BadConfig(f"engine_config must be an EngineConfig, not {config!r}")
    changes: dict[str, Any] = {}
    for name, value in given.items():
        if value is None:
            continue
        field = SEED_KEYWORDS.get(name, name)
        present = getattr(config, field)
        if present not in (value, getattr(EngineConfig(), field)):
            raise BadConfig(
                f"{name}={value!r} contradicts {field}={present!r} of the engine_config;"
                " give one of them"
            )
        changes[field] = value
    return replace(config, **changes)


# --- overrides of the command line ------------------------------------------------------------


def _choice(*known: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in known:
            raise ValueError(f"one of {', '.join(known)}")
        return text

    return parse


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("a whole number") from None


def _fraction(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("a number between 0 and 1") from None


OVERRIDES: dict[str, tuple[str, Callable[[str], Any]]] = {
    "max_num_sequence": ("max_num_sequence", _whole),
    "max_total_seq_length": ("max_total_sequence_length", _whole),
    "max_total_sequence_length": ("max_total_sequence_length", _whole),
    "context_window_size": ("max_single_sequence_length", _whole),
    "prefill_chunk_size": ("prefill_chunk_size", _whole),
    "max_history_size": ("max_history_size", _whole),
    "gpu_memory_utilization": ("gpu_memory_utilization", _fraction),
    "spec_draft_length": ("spec_draft_length", _whole),
    "spec_tree_width": ("spec_tree_width", _whole),
    "prefix_cache_mode": ("prefix_cache_mode", _choice("disable", "radix")),
    "prefix_cache_max_num_recycling_seqs": ("prefix_cache_max_num_recycling_seqs", _whole),
    "prefill_mode": ("prefill_mode", _choice("hybrid", "chunked")),
    "kv_cache_dtype": ("kv_cache_dtype", _choice(*get_args(KvCacheDtype))),
    "sliding_window_size": ("sliding_window_size", _whole),
    "attention_sink_size": ("attention_sink_size", _whole),
    "tensor_parallel_shards": ("tensor_parallel_shards", _whole),
    "pipeline_parallel_stages": ("pipeline_parallel_stages", _whole),
    "opt": ("opt", str),
}
"""Keys of `--overrides`: the field of `EngineConfig` each one sets, and how its value is read."""


def parse_overrides(text: str) -> dict[str, Any]:
    """`"k=v;k=v"` as fields of `EngineConfig`; raises `BadConfig` that lists the known keys."""
    found: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise BadConfig(f"override {part!r} has no value; write {part}=VALUE")
        if key not in OVERRIDES:
            known = ", ".join(OVERRIDES)
            raise BadConfig(f"override {key!r} is not known; the known ones are {known}")
        field, read = OVERRIDES[key]
        if field in found:
            raise BadConfig(f"override {key} is given twice; leave one of them out")
        try:
            found[field] = read(value)
        except ValueError as error:
            raise BadConfig(f"override {key} must be {error}, not {value!r}") from None
    return found


# --- the engine's order -------------------------------------------------------------------------


LEAST = {
    "max_num_sequence": 1,
    "max_total_sequence_length": 1,
    "max_single_sequence_length": 2,  # a token in, a token out
    "prefill_chunk_size": 1,
    "sliding_window_size": 2,
    "prefix_cache_max_num_recycling_seqs": -1,
    "spec_draft_length": 0,
    "spec_tree_width": 1,
}
"""The smallest number that a field may be."""

UNSET_IS_MINUS_ONE = frozenset(
    {
        "max_num_sequence",
        "max_total_sequence_length",
        "max_single_sequence_length",
        "prefill_chunk_size",
        "sliding_window_size",
    }
)

ALSO_CALLED = {
    "max_num_sequence": "max_batch_size",
    "max_total_sequence_length": "max_total_seq_length",
    "max_single_sequence_length": "context_window_size",
}
"""Fields that a keyword or an override calls by another name."""

WORDS = {int: "a whole number", float: "a number", str: "text", bool: "True or False"}


def check(config: EngineConfig) -> None:
    """Raise `BadConfig` for what this version cannot do and for values that make no sense.

    Values that switch a missing feature off are fine.
    """
    _check_types(config)
    missing = {
        f"speculative_mode={config.speculative_mode}": config.speculative_mode != "disable",
        "additional_models": bool(config.additional_models),
        f"tensor_parallel_shards={config.tensor_parallel_shards}": (
            config.tensor_parallel_shards not in (None, 1)
        ),
        f"pipeline_parallel_stages={config.pipeline_parallel_stages}": (
            config.pipeline_parallel_stages not in (None, 1)
        ),
        f"max_history_size={config.max_history_size}": config.max_history_size not in (None, 0),
        f"kv_state_kind={config.kv_state_kind}": config.kv_state_kind == "rnn_state",
        f"attention_sink_size={config.attention_sink_size}": (
            config.attention_sink_size not in (None, -1, 0)
        ),
        f"kv_cache_page_size={config.kv_cache_page_size}": config.kv_cache_page_size != 16,
        f"opt={config.opt}": config.opt not in (None, "O2"),
    }
    for what, refused in missing.items():
        if refused:
            raise BadConfig(f"{what} is not supported by this version; leave it out")
    for field, least in LEAST.items():
        value = getattr(config, field)
        if field in UNSET_IS_MINUS_ONE:
            value = _given(value)
        if value is not None and value < least:
            raise BadConfig(f"{_named(field)} must be at least {least}, not {value}")
    if config.tool_call_parser is not None:
        tools_by_name(config.tool_call_parser)
    if config.reasoning_parser is not None:
        thoughts_by_name(config.reasoning_parser)
    share = config.gpu_memory_utilization
    if share is not None and not 0 < share <= 1:
        raise BadConfig(f"gpu_memory_utilization must be above 0 and at most 1, not {share:g}")


def _check_types(values: Struct) -> None:
    """Python does not check what a constructor is given; here every value gets its type checked."""
    for field in fields(values):
        value = getattr(values, field.name)
        try:
            msgspec.convert(value, field.type)
        except msgspec.ValidationError:
            wanted = _in_words(field.type)
            raise BadConfig(f"{_named(field.name)} must be {wanted}, not {value!r}") from None


def _in_words(kind: Any) -> str:
    """A type of a field, for people; None is left out."""
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_in_words(part) for part in get_args(kind) if part is not type(None))
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    return WORDS.get(kind, "a list of paths or of (path, library)")


def _named(field: str) -> str:
    """A field under its name and the one that people may know it by."""
    also = ALSO_CALLED.get(field)
    return f"{field} ({also})" if also else field


def _given(value: int | None) -> int | None:
    """MLC's configuration files write -1 where nothing is set."""
    return None if value == -1 else value


def to_spec(
    config: EngineConfig,
    model_path: str,
    device: str = "auto",
    *,
    quantization: str | None = None,
    enable_tracing: bool = False,
    threads: int | None = None,
    max_waiting: int = 1024,
) -> EngineSpec:
    """What the engine process is told. `model_path` is a folder that exists.

    Raises `BadConfig` for what this version cannot do.
    """
    check(config)
    if not _DEVICE.fullmatch(device):
        raise BadConfig(f"device {device!r} is not known; use auto, cpu, cuda or cuda:N")
    spec = EngineSpec(
        model=model_path,
        device=device,
        model_lib=config.model_lib,
        quantization=quantization,
        kv_cache_dtype=config.kv_cache_dtype,
        mode=config.mode or "local",
        max_num_sequence=_given(config.max_num_sequence),
        max_total_sequence_length=_given(config.max_total_sequence_length),
        max_single_sequence_length=_given(config.max_single_sequence_length),
        prefill_chunk_size=_given(config.prefill_chunk_size),
        sliding_window_size=_given(config.sliding_window_size),
        attention_sink_size=None,
        gpu_memory_utilization=config.gpu_memory_utilization,
        prefill_mode=config.prefill_mode,
        prefix_cache_mode=config.prefix_cache_mode,
        prefix_cache_max_num_recycling_seqs=config.prefix_cache_max_num_recycling_seqs,
        enable_tracing=enable_tracing,
        max_waiting=max_waiting,
        threads=threads,
        verbose=config.verbose,
    )
    _check_types(spec)
    return spec
