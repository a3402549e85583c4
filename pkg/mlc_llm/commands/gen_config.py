"""`mlc_llm gen_config`: mlc-chat-config.json and the tokenizer of a Hugging Face model."""

from __future__ import annotations

import os
import shutil
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Tokenizer

from mlc_llm.arguments import ArgumentParser
from mlc_llm.commands.source import add_arguments, open_source
from mlc_llm.conversation_template.names import SHAPES, document
from mlc_llm.errors import BadConfig, BadModel
from mlc_llm.models.chat_config import MAX_BATCH, Sizes, chat_config
from mlc_llm.models.document import MEBIBYTE, read_json, read_optional_json
from mlc_llm.models.folder import ModelFolder
from mlc_llm.quantization.storage import STORAGES

CONFIG = "mlc-chat-config.json"
TOKENIZER_FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "tokenizer_config.json",
)
"""What MLC lists in `tokenizer_files`."""

ALSO_COPIED = ("chat_template.jinja",)
"""Newer models keep their chat template in a file of its own."""

DEFAULTS = {
    "temperature": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
    "top_p": 1.0,
}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
"""MLC's values for what no file says."""


def main(argv: Sequence[str]) -> int:
    """Write the files; 0 then. Raises `MLCError`."""
    given = _parser().parse_args(argv)
    folder = open_source(given.config, given.model_type)
    template = None if given.conv_template == "auto" else document(given.conv_template)
    config = {
        **chat_config(
            folder.architecture,
            given.quantization,
            read_json(folder.path / "config.json", dict[str, Any]),
            _sizes(given),
        ),
        **_said_by_files(folder.path),
        **_tokenizer_fields(folder),
        "conv_template": template,
        **_task(folder),
    }
    try:
        given.output.mkdir(parents=True, exist_ok=True)
        for name in (*TOKENIZER_FILES, *ALSO_COPIED):
            _copy(folder.path / name, given.output / name)
        _write(given.output / CONFIG, config)
    except OSError as error:
        raise BadConfig(f"{given.output}: cannot be written ({error.strerror})") from None
    if template is None and folder.chat_template is None:
        print("the model has no chat template and --conv-template names none", file=sys.stderr)
    print(f"wrote {given.output / CONFIG}")
    return 0


def _task(folder: ModelFolder) -> dict[str, Any]:
    """What the model is for. One that embeds says how; decoders take the last token by default."""
    encodes = folder.architecture.encoder
    if not encodes and folder.pooling == "last":
        return {"model_task": "chat", "embedding_metadata": None}
    kind = "encoder" if encodes else "decoder"
    how = {"model_type": kind, "pooling_strategy": folder.pooling, "normalize": True}
    return {"model_task": "embedding", "embedding_metadata": how}


def _sizes(given: Namespace) -> Sizes:
    return Sizes(**{name: getattr(given, name) for name in Sizes.__struct_fields__})


def _said_by_files(path: Path) -> dict[str, Any]:
    """Sampling defaults and special tokens: of generation_config.json, else of config.json."""
    generation = read_optional_json(path / "generation_config.json", dict[str, Any]) or {}
    config = read_json(path / "config.json", dict[str, Any])
    found = {}
    for key, value in (DEFAULTS | TOKENS).items():
        said = generation.get(key)
        said = config.get(key) if said is None else said
        found[key] = value if said is None else said
    return found


def _tokenizer_fields(folder: ModelFolder) -> dict[str, Any]:
    path = folder.path / "tokenizer.json"
    values = read_json(path, dict[str, Any], 256 * MEBIBYTE)
    _refuse_duplicates(values, path)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers package raises nothing narrower
        raise BadModel(f"{path}: {error}") from None
    size, most = tokenizer.get_vocab_size(with_added_tokens=False), folder.architecture.vocab_size
    if size > most:  # a model need not know every token that was added
        raise BadModel(f"{path}: has {size} tokens but the model only {most}")
    present = [name for name in TOKENIZER_FILES if (folder.path / name).is_file()]
    return {
        "active_vocab_size": min(tokenizer.get_vocab_size(), most),
        "tokenizer_files": present,
        "tokenizer_info": tokenizer_info(values),
    }


def _refuse_duplicates(values: dict[str, Any], path: Path) -> None:
    seen = set()
    for token in values.get("added_tokens") or []:
        content = token.get("content") if isinstance(token, dict) else None
        if content in seen:
            raise BadModel(f"{path}: added token {content!r} appears twice")
        seen.add(content)


def tokenizer_info(values: dict[str, Any]) -> dict[str, Any]:
    """How tokens become text, by the `decoder` and `normalizer` of tokenizer.json."""
    decoders = _parts(values.get("decoder"), "decoders")
    normalizers = _parts(values.get("normalizer"), "normalizers")
    kinds = {"ByteLevel": "byte_level", "ByteFallback": "byte_fallback"}
    methods = [kinds[str(d.get("type"))] for d in decoders if d.get("type") in kinds]
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    return {
        "token_postproc_method": methods[-1] if methods else "byte_fallback",
        "prepend_space_in_encode": {"type": "Prepend", "prepend": "▁"} in normalizers,
        "strip_space_in_decode": strip in decoders,
    }


def _parts(value: Any, key: str) -> list[dict[str, Any]]:
    """The members of a sequence, or the one there is."""
    if not isinstance(value, dict):
        return []
    members = value.get(key) if value.get("type") == "Sequence" else [value]
    return [part for part in members or [] if isinstance(part, dict)]


def _copy(source: Path, target: Path) -> None:
    if source.is_file() and source.resolve() != target.resolve():
        with _appearing(target) as scratch:
            shutil.copyfile(source, scratch)


def _write(path: Path, config: dict[str, Any]) -> None:
    with _appearing(path) as scratch:
        scratch.write_bytes(msgspec.json.format(msgspec.json.encode(config), indent=2))


@contextmanager
def _appearing(path: Path) -> Iterator[Path]:
    """A name beside `path` for what shall be there whole or not at all."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield scratch
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        "mlc_llm gen_config",
        "Write mlc-chat-config.json of a Hugging Face model and copy its tokenizer.",
    )
    add_arguments(parser, STORAGES)
    parser.add_argument(
        "--conv-template",
        default="auto",
        help="auto: the model's own chat template; or MLC's name of one: " + ", ".join(SHAPES),
    )
    for name in ("context-window", "sliding-window", "prefill-chunk"):
        parser.add_argument(f"--{name}-size", type=_positive, help="tokens")
    parser.add_argument("--attention-sink-size", type=int, help="tokens")
    for name in ("tensor-parallel-shards", "pipeline-parallel-stages"):
        parser.add_argument(f"--{name}", type=_positive, default=1)
    parser.add_argument("--max-batch-size", type=_positive, default=MAX_BATCH)
    parser.add_argument("--disaggregation", action="store_true")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)
