"""The arguments and the model that convert_weight and gen_config have in common."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mlc_llm.arguments import ArgumentParser
from mlc_llm.errors import BadConfig, BadModel
from mlc_llm.models.folder import ModelFolder, open_folder
from mlc_llm.models.resolve import resolve_model


def add_arguments(parser: ArgumentParser, quantizations: Iterable[str]) -> None:
    """CONFIG, --quantization (one of these), --model-type and --output."""
    parser.add_argument(
        "config",
        metavar="CONFIG",
        help="folder of a Hugging Face model, its config.json, a .gguf file, HF://user/repo, "
        "or a name",
    )
    parser.add_argument(
        "--quantization", required=True, choices=list(quantizations), help="how weights are stored"
    )
    parser.add_argument(
        "--model-type", default="auto", help="model family; auto: what config.json says"
    )
    parser.add_argument("-o", "--output", required=True, type=Path, help="folder to write into")


def open_source(config: str, model_type: str) -> ModelFolder:
    """The Hugging Face model; raises `BadModel` or `BadConfig`."""
    folder = open_folder(resolve_model(config))
    if folder.format != "huggingface":
        raise BadModel(
            f"{folder.path}: is an MLC folder already; name the Hugging Face model it is made from"
        )
    found = folder.architecture.model_type
    if model_type not in ("auto", found):
        raise BadConfig(f"--model-type {model_type} was given but {folder.path} is a {found}")
    return folder
