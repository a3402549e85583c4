"""Every family is read from every format of Hugging Face's folders: it does not know which it was.

Two folders hold the same values, once as floats and once in the format; what is loaded of both is
the same bit for bit. Codes stand where published files have them: in matrices of layers whose sizes
they can pack, the router between experts excepted.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from mlc_llm.models.folder import open_folder
from mlc_llm.models.registry import family
from mlc_llm.quantization.scheme import SCHEMES
from mlc_llm.weights.load import load_weights
from support import torch_files
from support.checkpoints import FIXTURES, load, values, write_folder
from support.family_configs import CONFIGS, ENCODERS
from support.folders import Stored, encode, write_json, write_safetensors
from support.mlc_decoder import E4M3
from support.packed_codes import awq, gptq, random_codes
from support.packed_codes import values as packed_values

Floats = NDArray[np.float32]
BLOCK = (24, 40)


class Coded(NamedTuple):
    """A matrix in a format, and what it stands for."""

    stored: dict[str, Stored]
    value: Floats


def float8(name: str, shape: tuple[int, ...]) -> Coded:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    bits = rng.integers(0, 0x7F, shape).astype(np.uint8) | (rng.integers(0, 2, shape) << 7)
    bits = bits.astype(np.uint8)
    sizes = [-(-size // part) for size, part in zip(shape, BLOCK, strict=True)]
    scales = rng.random(sizes).astype(np.float32) / 512
    spread = np.repeat(np.repeat(scales, BLOCK[0], axis=0), BLOCK[1], axis=1)
    value = E4M3[bits] * spread[: shape[0], : shape[1]]
    return Coded({name: ("F8_E4M3", bits), f"{name}_scale_inv": ("F32", scales)}, value)


def packed(method: str) -> Callable[[str, tuple[int, ...]], Coded | None]:
    def code(name: str, shape: tuple[int, ...]) -> Coded | None:
        rows, cols = shape
        if rows % 8 or cols % 8:
            return None
        codes, zeros, scales = random_codes(cols, rows, 2)
        make = gptq if method == "gptq" else awq
        stored = make(name.removesuffix(".weight"), codes, zeros, scales)
        return Coded(stored, packed_values(codes, zeros, scales, np.arange(cols) // (cols // 2)))

    return code


FORMATS: dict[str, Callable[[str, tuple[int, ...]], Coded | None]] = {
    "fp8": float8,
    "gptq": packed("gptq"),
    "awq": packed("awq"),
    "torch": lambda name, shape: None,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "fp8": {"quant_method": "fp8", "weight_block_size": BLOCK},
    "gptq": {"quant_method": "gptq", "bits": 4},
    "awq": {"quant_method": "awq", "bits": 4},
}
IN_A_LAYER = re.compile(r".*\.\d+\..*weight")
ROUTER = re.compile(r".*\.(gate|shared_expert_gate)\.weight")


CASES = [
    (name, kind)
    for name, config in {**CONFIGS, **ENCODERS}.items()
    for kind in FORMATS
    if kind not in ("gptq", "awq") or not family(config["model_type"]).huggingface.transposed
]
"""All but codes of matrices that lie the other way round, whose tools do not agree where."""


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_family_is_read_from_every_format(name: str, kind: str, tmp_path: Path) -> None:
    recorded = load(FIXTURES / f"{name}.npz")
    stored: dict[str, Stored] = {}
    plain: dict[str, Stored] = {}
    for tensor in recorded.tensors:
        coded = None
        if len(tensor.shape) == 2 and IN_A_LAYER.fullmatch(tensor.name):
            coded = None if ROUTER.fullmatch(tensor.name) else FORMATS[kind](*tensor[:2])
        if coded is None:
            halves = encode(values(tensor), "F16")
            coded = Coded({tensor.name: halves}, halves[1].astype(np.float32))
        stored |= coded.stored
        plain[tensor.name] = encode(coded.value, "F32")
    for folder in ("coded", "plain"):
        write_folder(tmp_path / folder, recorded.config, [])
    write_safetensors(tmp_path / "plain" / "model.safetensors", plain)
    if kind == "torch":
        (tmp_path / "coded" / "model.safetensors").unlink()
        torch_files.write(tmp_path / "coded" / "pytorch_model.bin", stored)
    else:
        write_safetensors(tmp_path / "coded" / "model.safetensors", stored)
    settings = {"quantization_config": SETTINGS[kind]} if kind in SETTINGS else {}
    write_json(tmp_path / "coded" / "config.json", {**recorded.config, **settings})
    found, expected = (
        load_weights(open_folder(tmp_path / folder), SCHEMES["q0f32"])
        for folder in ("coded", "plain")
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
