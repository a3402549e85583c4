"""What each weight format costs in accuracy: perplexity and logits, against float64. Prints tables.

    OPENBLAS_NUM_THREADS=1 PYTHONPATH=pkg:workers:tests \\
        python tests/bench/price.py TEXT MODEL ... [--windows 16]

TEXT is a text that the trained MODEL folders (unsharded Hugging Face folders) know. Three numbers
for each format: `float64` is the model as it is stored, `weights` has the rounded weights but is
computed in float64, so it shows what the weights alone cost, and `engine` is the compiled step
with everything: activations in 8 bits where the kernels use them, the KV cache in its own type.
Windows of 256 tokens begin with the start token, as the models were trained.

The second table has a random model, whose logits are compared one by one: root mean square of the
error over that of the logits.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from mlc_llm.kernels.cpu.level import detect
from mlc_llm.models.architecture import Architecture
from mlc_llm.models.folder import open_folder
from mlc_llm.quantization.scheme import SCHEMES, KvDtype, scheme_by_name
from mlc_llm.weights.load import load_weights
from mlc_llm.weights.pack import unpack_weights
from mlc_workers.scheduler.plan import Span
from support.oracle import Oracle, random_weights
from support.reference_text import open_oracle
from support.small_models import CompiledModel, architecture, packed_weights

WINDOW = 256
FORMATS: list[tuple[str, KvDtype | None]] = [
    *((name, None) for name in SCHEMES),
    ("q0f32", "float16"),
    ("q0f32", "bfloat16"),
    ("q0f32", "int8"),
    ("q8f16_1", "float32"),
    ("q4f16_1", "int8"),
]
"""Quantizations, with the KV cache in its own type or in another: with weights in float32 only the
cache costs, and with 8-bit groups and a cache in float32 only the weights and the activations."""

Logits = Callable[[Sequence[int]], NDArray[np.floating[Any]]]
"""From the tokens of a window to the logits after each of them."""


def windows(text: Path, folder: Path, most: int) -> list[list[int]]:
    """The first windows of the text."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    start = json.loads((folder / "config.json").read_text())["bos_token_id"]
    ids = tokenizer.encode(text.read_text(), add_special_tokens=False).ids
    size = WINDOW - 1
    cut = [[start, *ids[at : at + size]] for at in range(0, len(ids) - size, size)]
    return cut[:most]


def losses(logits: Logits, tokens: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """Mean negative log-likelihood of each window."""
    found = []
    for window in tokens:
        x = np.asarray(logits(window)[:-1], np.float64)
        largest = x.max(axis=1)
        normalizer = largest + np.log(np.exp(x - largest[:, None]).sum(axis=1))
        found.append(np.mean(normalizer - x[np.arange(len(x)), window[1:]]))
    return np.array(found)


def engine(
    arch: Architecture,
    quantization: str,
    packed: list[NDArray[Any]],
    kv_dtype: KvDtype | None = None,
) -> Logits:
    """The compiled step."""
    model = CompiledModel(arch, quantization, packed, kv_dtype=kv_dtype)
    return lambda window: model.run(Span(0, 0, window, False, 0, len(window)))


def _named(name: str, kv_dtype: KvDtype | None) -> str:
    return name if kv_dtype is None else f"{name}, {kv_dtype} KV"


def perplexities(text: Path, path: Path, most: int) -> None:
    """Print the first table for one model."""
    folder = open_folder(path)
    tokens = windows(text, path, most)
    truth = losses(open_oracle(path).logits, tokens)
    print(f"\n{path.name}, {len(tokens)} windows: float64 {math.exp(truth.mean()):.4f}")
    print(f"{'':16} {'weights':>9} {'cost':>8} {'engine':>9} {'cost':>8} {'error of the cost':>18}")
    for name, kv_dtype in FORMATS:
        scheme = SCHEMES[name]
        packed = load_weights(folder, scheme)
        rounded = Oracle(folder.architecture, unpack_weights(folder.architecture, scheme, packed))
        only = losses(rounded.logits, tokens)
        whole = losses(engine(folder.architecture, name, packed, kv_dtype), tokens)
        spread = np.std(whole - truth) / math.sqrt(len(tokens))
        print(
            f"{_named(name, kv_dtype):16} "
            f"{math.exp(only.mean()):9.4f} {math.expm1((only - truth).mean()):+8.3%} "
            f"{math.exp(whole.mean()):9.4f} {math.expm1((whole - truth).mean()):+8.3%} "
            f"{spread:18.3%}",
            flush=True,
        )


def logit_errors() -> None:
    """Print the second table."""
    arch = architecture(hidden_size=256, intermediate_size=704, head_dim=32, vocab_size=1000)
    tokens = np.random.default_rng(0).integers(0, arch.vocab_size, WINDOW).tolist()
    truth = Oracle(arch, random_weights(arch, 0)).logits(tokens)
    size = np.sqrt(np.mean(truth**2))
    print(
        f"\nrandom model, {arch.hidden_size} wide: {'weights':>8} {'engine to float64':>18} ",
        end="",
    )
    print(f"{'engine to weights':>18}")
    for name, kv_dtype in FORMATS:
        packed = packed_weights(arch, name, 0)
        only = Oracle(arch, unpack_weights(arch, scheme_by_name(name), packed)).logits(tokens)
        whole = engine(arch, name, packed, kv_dtype)(tokens)
        cells = (
            float(np.sqrt(np.mean(d**2)) / size)
            for d in (only - truth, whole - truth, whole - only)
        )
        first, second, third = cells
        print(f"{_named(name, kv_dtype):24} {first:8.3%} {second:18.3%} {third:18.3%}", flush=True)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("text", type=Path)
    parser.add_argument("models", type=Path, nargs="*")
    parser.add_argument("--windows", type=int, default=16)
    args = parser.parse_args()
    print(f"kernels for {detect().value}")
    for path in args.models:
        perplexities(args.text, path, args.windows)
    logit_errors()


if __name__ == "__main__":
    main()
