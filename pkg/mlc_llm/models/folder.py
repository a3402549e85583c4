"""What a model folder says about itself, whichever program wrote it. Reads JSON, never a weight."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from mlc_llm.errors import BadModel
from mlc_llm.models import huggingface, mlc
from mlc_llm.models.architecture import Architecture, LongRope
from mlc_llm.models.document import (
    MEBIBYTE,
    convert,
    read_bytes,
    read_json,
    read_optional_json,
)
from mlc_llm.models.mlc import Pooling
from mlc_llm.models.quantized import quantized
from mlc_llm.protocol.ranges import MAX_MODEL_STOPS

MANIFEST_NAMES = ("tensor-cache.json", "ndarray-cache.json")
"""What lists the weight shards of an MLC folder: today's name, and the one before 2025-09."""

TOOL_USE = "tool_use"
"""Hugging Face's name of a model's template for requests with tools."""


class GenerationDefaults(Struct, frozen=True, kw_only=True):
    """Sampling the model's authors recommend; used for fields a request leaves unset."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    max_tokens: int | None = None


class ModelFolder(Struct, frozen=True, kw_only=True):
    """A model on disk, its configuration read and checked."""

    path: Path
    format: Literal["huggingface", "mlc"]
    architecture: Architecture
    quantization: str | None
    """The scheme the weights are stored in; None for a Hugging Face folder (quantized at load)."""
    best_served: str | None = None
    """The scheme for weights that were quantized before, unless the user names one."""
    gguf: bool = False
    """The weights are those of a GGUF file (`models.layout.straight`)."""
    defaults: GenerationDefaults
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    chat_template: str | None
    """Jinja source from chat_template.jinja or tokenizer_config.json."""
    tool_use_template: str | None = None
    """The one for requests with tools, of models that have several."""
    conv_template: dict[str, Any] | None
    """MLC's conversation template, from mlc-chat-config.json."""
    tokenizer_config: dict[str, Any]
    """tokenizer_config.json, or {} when there is none."""
    context_window_size: int
    """What is served unless more is asked for: mlc-chat-config.json may shrink the architecture's,
    and with LongRoPE it is the positions that the model was trained for first."""
    prefill_chunk_size: int | None = None
    sliding_window_size: int | None = None
    pooling: Pooling = "last"
    """How a text is embedded unless a request says otherwise."""


class _PoolingConfig(Struct, frozen=True):
    """1_Pooling/config.json, which models that were trained to embed come with."""

    pooling_mode_cls_token: bool = False
    pooling_mode_mean_tokens: bool = False
    pooling_mode_lasttoken: bool = False


class _Stops(Struct, frozen=True):
    """The part of a conversation template that is about the end of an answer."""

    stop_token_ids: list[int] | None = None
    stop_str: Annotated[list[str], Meta(max_length=MAX_MODEL_STOPS)] | None = None


class _NamedTemplate(Struct, frozen=True):
    """One of several chat templates of a model."""

    name: str
    template: str


class _Templates(Struct, frozen=True):
    """The part of tokenizer_config.json that is about the chat template."""

    chat_template: str | list[_NamedTemplate] | None = None


def open_folder(path: Path) -> ModelFolder:
    """Read and check the configuration of the model in `path`.

    A folder with mlc-chat-config.json is MLC's, unless only a Hugging Face model's weights are
    there. Raises `BadModel` with one line that names the file and the key at fault.
    """
    mlc_config, config = path / "mlc-chat-config.json", path / "config.json"
    if not mlc_config.is_file() and not config.is_file():
        raise BadModel(f"{path}: has neither mlc-chat-config.json nor config.json")
    if not (path / "tokenizer.json").is_file():
        raise BadModel(f"{path}: has no tokenizer.json; other tokenizer files are not supported")
    has_manifest = any((path / name).is_file() for name in MANIFEST_NAMES)
    if mlc_config.is_file() and (has_manifest or not config.is_file()):
        return _open_mlc(path, mlc_config)
    return _open_huggingface(path, config)


def _open_huggingface(path: Path, config: Path) -> ModelFolder:
    values = read_json(config, dict[str, Any])
    tokens = convert(values, huggingface.TokenConfig, config)
    architecture = huggingface.architecture(tokens.model_type, values, config)
    codes = quantized(values, config)
    generation = _generation_config(path)
    tokenizer_config = _tokenizer_config(path)
    bos = generation.bos_token_id if generation.bos_token_id is not None else tokens.bos_token_id
    eos = generation.eos_token_id if generation.eos_token_id is not None else tokens.eos_token_id
    return ModelFolder(
        path=path,
        format="huggingface",
        architecture=architecture,
        quantization=None,
        best_served=None if codes is None else codes.served,
        gguf=codes is not None and codes.method == "gguf",
        defaults=_huggingface_defaults(generation),
        bos_token_id=next(iter(_token_ids(bos, architecture)), None),
        eos_token_ids=_ends(path, eos, architecture),
        chat_template=_chat_template(path, tokenizer_config),
        tool_use_template=_tool_use_template(path, tokenizer_config),
        conv_template=None,
        tokenizer_config=tokenizer_config,
        context_window_size=_window(None, architecture),
        pooling=_pooling(path, architecture),
    )


def _open_mlc(path: Path, config_path: Path) -> ModelFolder:
    config = read_json(config_path, mlc.ChatConfig)
    architecture = mlc.architecture(config, config_path)
    tokenizer_config = _tokenizer_config(path)
    conv_template = config.conv_template if isinstance(config.conv_template, dict) else None
    stops = _stop_token_ids(conv_template, config_path)
    return ModelFolder(
        path=path,
        format="mlc",
        architecture=architecture,
        quantization=config.quantization,
        defaults=_mlc_defaults(config),
        bos_token_id=next(iter(_token_ids(config.bos_token_id, architecture)), None),
        eos_token_ids=_ends(path, [*_as_list(config.eos_token_id), *stops], architecture),
        chat_template=_chat_template(path, tokenizer_config),
        tool_use_template=_tool_use_template(path, tokenizer_config),
        conv_template=conv_template,
        tokenizer_config=tokenizer_config,
        context_window_size=_window(mlc.positive(config.context_window_size), architecture),
        prefill_chunk_size=mlc.positive(config.prefill_chunk_size),
        sliding_window_size=mlc.positive(config.sliding_window_size),
        pooling=_stored_pooling(config) or _pooling(path, architecture),
    )


def _generation_config(path: Path) -> huggingface.GenerationConfig:
    found = read_optional_json(path / "generation_config.json", huggingface.GenerationConfig)
    return found or huggingface.GenerationConfig()


def _pooling(path: Path, architecture: Architecture) -> Pooling:
    """What the folder says, else what is usual. Raises `BadModel` for another way of pooling."""
    file = path / "1_Pooling" / "config.json"
    found = read_optional_json(file, _PoolingConfig)
    if found is None:
        return "mean" if architecture.encoder else "last"
    modes: dict[Pooling, bool] = {
        "cls": found.pooling_mode_cls_token,
        "mean": found.pooling_mode_mean_tokens,
        "last": found.pooling_mode_lasttoken,
    }
    asked: list[Pooling] = [mode for mode, is_asked in modes.items() if is_asked]
    if len(asked) != 1:
        raise BadModel(f"{file}: only one of cls, mean and lasttoken pooling is supported")
    return asked[0]


def _window(written: int | None, architecture: Architecture) -> int:
    most = architecture.context_window_size
    if written is not None and written < most:
        return written
    if isinstance(scaling := architecture.rope_scaling, LongRope):
        return min(most, scaling.original_max_position_embeddings)
    return most


def _stored_pooling(config: mlc.ChatConfig) -> Pooling | None:
    return config.embedding_metadata.pooling_strategy if config.embedding_metadata else None


def _tokenizer_config(path: Path) -> dict[str, Any]:
    file = path / "tokenizer_config.json"
    return read_optional_json(file, dict[str, Any], 64 * MEBIBYTE) or {}


def _huggingface_defaults(config: huggingface.GenerationConfig) -> GenerationDefaults:
    given: dict[str, float | int | None] = {
        "temperature": config.temperature,
        "top_p": config.top_p,
        "top_k": mlc.positive(config.top_k),
        "min_p": config.min_p,
        "repetition_penalty": config.repetition_penalty,
        "max_tokens": config.max_new_tokens,
    }
    return _present(given)


def _mlc_defaults(config: mlc.ChatConfig) -> GenerationDefaults:
    given: dict[str, float | int | None] = {
        "temperature": config.temperature,
        "top_p": config.top_p,
        "frequency_penalty": config.frequency_penalty,
        "presence_penalty": config.presence_penalty,
        "repetition_penalty": config.repetition_penalty,
    }
    return _present(given)


def _present(given: dict[str, float | int | None]) -> GenerationDefaults:
    """The defaults, changed where the folder gives a value; the ranges were checked already."""
    present = {name: value for name, value in given.items() if value is not None}
    return msgspec.convert(present, GenerationDefaults)


def _as_list(ids: huggingface.TokenIds) -> list[int]:
    return ids if isinstance(ids, list) else [] if ids is None else [ids]


def _token_ids(ids: huggingface.TokenIds, architecture: Architecture) -> tuple[int, ...]:
    """Distinct ids in order. -1 means "none" in old files; no model emits an id past its logits."""
    return tuple(dict.fromkeys(i for i in _as_list(ids) if 0 <= i < architecture.vocab_size))


def _ends(path: Path, ids: huggingface.TokenIds, architecture: Architecture) -> tuple[int, ...]:
    """Token ids that end an answer; raises `BadModel` when they are too many for any request."""
    found = _token_ids(ids, architecture)
    if len(found) > MAX_MODEL_STOPS:
        raise BadModel(
            f"{path}: eos_token_id and stop_token_ids name {len(found)} tokens; "
            f"at most {MAX_MODEL_STOPS} may end an answer"
        )
    return found


def _stop_token_ids(conv_template: dict[str, Any] | None, path: Path) -> list[int]:
    return convert(conv_template or {}, _Stops, path).stop_token_ids or []


def _chat_template(path: Path, tokenizer_config: dict[str, Any]) -> str | None:
    file = path / "chat_template.jinja"
    if file.is_file():
        return _read_template(file)
    template = _templates(path, tokenizer_config)
    if isinstance(template, list):
        return next((named.template for named in template if named.name == "default"), None)
    return template


def _tool_use_template(path: Path, tokenizer_config: dict[str, Any]) -> str | None:
    file = path / "additional_chat_templates" / f"{TOOL_USE}.jinja"
    if file.is_file():
        return _read_template(file)
    template = _templates(path, tokenizer_config)
    if not isinstance(template, list):
        return None
    return next((named.template for named in template if named.name == TOOL_USE), None)


def _templates(path: Path, tokenizer_config: dict[str, Any]) -> str | list[_NamedTemplate] | None:
    return convert(tokenizer_config, _Templates, path / "tokenizer_config.json").chat_template


def _read_template(file: Path) -> str:
    try:
        return read_bytes(file, MEBIBYTE).decode()
    except UnicodeDecodeError:
        raise BadModel(f"{file}: is not UTF-8 text") from None
