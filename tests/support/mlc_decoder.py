"""Reads what MLC's formats say a folder holds, element by element: the judge of our writer.

Shares no code with the package: it is a second reading of the format's description.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Places = NDArray[np.int64]

GROUPS = {"q3": (3, 40), "q4": (4, 32), "q8": (8, 32)}


def read_raw(folder: Path) -> dict[str, NDArray[Any]]:
    """The tensors as the manifest describes them; float32 and bfloat16 arrive as float32."""
    manifest = json.loads((folder / "tensor-cache.json").read_text())
    found: dict[str, NDArray[Any]] = {}
    for shard in manifest["records"]:
        data = (folder / shard["dataPath"]).read_bytes()
        assert shard["format"] == "raw-shard"
        assert len(data) == shard["nbytes"]
        assert hashlib.md5(data).hexdigest() == shard["md5sum"]
        for record in shard["records"]:
            start = record["byteOffset"]
            content = data[start : start + record["nbytes"]]
            assert record["name"] not in found
            found[record["name"]] = _array(record, content)
    return found


def _array(record: dict[str, Any], content: bytes) -> NDArray[Any]:
    dtype, shape = record["dtype"], record["shape"]
    if dtype == "bfloat16" or (dtype == "float32" and record["format"] == "f32-to-bf16"):
        wide = np.frombuffer(content, "<u2").astype(np.uint32) << 16
        return wide.view(np.float32).reshape(shape)
    kinds = {"float16": "<f2", "uint32": "<u4", "float8_e4m3fn": "u1"}
    return np.frombuffer(content, kinds[dtype]).reshape(shape)


def matrix(raw: dict[str, NDArray[Any]], base: str, quantization: str, cols: int) -> Floats:
    """The values of `base` + "weight"."""
    if f"{base}weight_scale_inv" in raw:
        bits, scales = raw[f"{base}weight"], raw[f"{base}weight_scale_inv"]
        if bits.ndim == 3:
            experts = zip(bits, scales, strict=True)
            return np.stack([_of_blocks(*one) for one in experts])
        return _of_blocks(bits, scales)
    if f"{base}q_calibration_scale" in raw:
        bits, scales = raw[f"{base}q_weight"], raw[f"{base}q_scale"]
        return _each(bits.shape, lambda n, k: E4M3[bits[n, k]] * scales[0])
    if f"{base}q_weight" not in raw:
        return raw[f"{base}weight"].astype(np.float32)
    words, scales = raw[f"{base}q_weight"], raw[f"{base}q_scale"].astype(np.float32)
    if quantization.endswith("_0") and "embed" not in base:
        words, scales = words.T, scales.T
    width, group = GROUPS[quantization[:2]]
    per_word, zero = 32 // width, 2 ** (width - 1) - 1

    def value(n: Places, k: Places) -> Any:
        codes = words[n, k // per_word].astype(np.int64) >> width * (k % per_word)
        return ((codes & (1 << width) - 1) - zero) * scales[n, k // group]

    return _each((len(words), cols), value)


def _of_blocks(bits: NDArray[Any], scales: NDArray[Any]) -> Floats:
    return _each(bits.shape, lambda n, k: E4M3[bits[n, k]] * scales[n // 128, k // 128])


def e4m3(code: int) -> float:
    """One float8 number."""
    sign = -1 if code & 0x80 else 1
    exponent, mantissa = code >> 3 & 15, code & 7
    if exponent == 0:
        return sign * mantissa * 2.0**-9
    return sign * (1 + mantissa / 8) * 2.0 ** (exponent - 7)


def _each(shape: tuple[int, ...], value: Callable[[Places, Places], Any]) -> Floats:
    rows, cols = np.indices(shape)
    return np.asarray(value(rows, cols), np.float32)


E4M3 = np.array([e4m3(code) for code in range(256)], np.float32)
