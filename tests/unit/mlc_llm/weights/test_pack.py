"""Packed weights hold what `models.parameters` draws, and unpack to what went in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mlc_llm.models.parameters import ParameterSpec
from mlc_llm.quantization.encode import quantize_bytes
from mlc_llm.quantization.group import dequantize, quantize
from mlc_llm.weights import pack as packing
from mlc_llm.weights.memory import huge_empty
from mlc_llm.weights.pack import chunks, pack, pack_words, unpack, unpack_words

QUANTIZERS = {"q4": quantize, "q8": quantize_bytes}


@st.composite
def specs(draw: st.DrawFn) -> ParameterSpec:
    kind = draw(st.sampled_from(("matrix", "gate_up", "vector")))
    cols = draw(st.integers(1, 100))
    rows = {"vector": 1, "matrix": draw(st.integers(1, 90))}.get(kind, 0)
    return ParameterSpec("w", kind, rows or 2 * draw(st.integers(1, 70)), cols)  # type: ignore[arg-type]


def matrix_of(spec: ParameterSpec, seed: int = 0) -> NDArray[np.float32]:
    values = np.random.default_rng(seed).standard_normal((spec.rows, spec.cols))
    return values.astype(np.float16).astype(np.float32)


def packed(spec: ParameterSpec, weights: Any, value: Any) -> list[NDArray[Any]]:
    """The tensors, in memory that was full of NaNs before."""
    out = [huge_empty(t.shape, t.dtype) for t in spec.tensors(weights)]
    for array in out:
        array.view(np.uint8)[...] = 0xFF
    pack(spec, value, out)
    return out


@settings(deadline=None)
@given(specs(), st.sampled_from(("f32", "f16")))
def test_floats_unpack_to_what_was_packed(spec: ParameterSpec, weights: str) -> None:
    matrix = matrix_of(spec)
    out = packed(spec, weights, matrix)
    assert np.array_equal(unpack(spec, out).reshape(matrix.shape), matrix)
    assert all(np.isfinite(array).all() for array in out)


@settings(deadline=None)
@given(specs().filter(lambda spec: spec.kind != "vector"), st.sampled_from(("q4", "q8")))
def test_words_unpack_to_what_was_packed(spec: ParameterSpec, weights: str) -> None:
    quantized = QUANTIZERS[weights](matrix_of(spec))
    out = packed(spec, weights, quantized)
    assert np.array_equal(unpack(spec, out), dequantize(quantized, spec.cols))


@pytest.mark.parametrize("weights", ["f32", "f16", "q4", "q8"])
@pytest.mark.parametrize("kind", ["matrix", "gate_up"])
def test_many_small_chunks_fill_every_block_once(
    kind: Any, weights: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "CHUNK_ELEMENTS", 1)
    spec = ParameterSpec("w", kind, 86, 40)
    blocks = [b for chunk in chunks(spec) for b in range(spec.num_blocks)[chunk.blocks]]
    assert sorted(blocks) == list(range(spec.num_blocks))
    matrix = matrix_of(spec)
    quantizer = QUANTIZERS.get(weights)
    stored = quantizer(matrix) if quantizer else matrix
    expected = dequantize(quantizer(matrix), 40) if quantizer else matrix
    assert np.array_equal(unpack(spec, packed(spec, weights, stored)), expected)


@pytest.mark.parametrize("rows", [37, 48])
def test_a_float_lies_where_the_drawing_says(rows: int) -> None:
    spec = ParameterSpec("w", "matrix", rows, 45)
    matrix = matrix_of(spec)
    (out,) = packed(spec, "f32", matrix)
    for n in range(48):
        for k in range(64):
            expected = matrix[n, k] if n < rows and k < 45 else 0
            assert out[n // 16, k, n % 16] == expected


@pytest.mark.parametrize("rows", [37, 48])
def test_a_nibble_lies_where_the_drawing_says(rows: int) -> None:
    spec = ParameterSpec("w", "matrix", rows, 45)
    quantized = quantize(matrix_of(spec))
    values = dequantize(quantized, 45)
    words, scales = packed(spec, "q4", quantized)
    memory = words.view(np.uint8).reshape(*words.shape, 4)
    for n in range(48):
        for k in range(64):
            group, within = divmod(k, 32)
            j, i = divmod(within % 16, 4)
            byte = int(memory[n // 16, group, j, n % 16, i])
            nibble = byte >> 4 if within >= 16 else byte & 15
            value = (nibble - 7) * float(scales[n // 16, group, n % 16])
            assert value == (values[n, k] if n < rows and k < 45 else 0)


@pytest.mark.parametrize("rows", [37, 48])
def test_a_byte_lies_where_the_drawing_says(rows: int) -> None:
    spec = ParameterSpec("w", "matrix", rows, 45)
    quantized = quantize_bytes(matrix_of(spec))
    values = dequantize(quantized, 45)
    words, scales = packed(spec, "q8", quantized)
    memory = words.view(np.uint8).reshape(*words.shape, 4)
    for n in range(48):
        for k in range(64):
            group, within = divmod(k, 32)
            j, i = divmod(within, 4)
            byte = int(memory[n // 16, group, j, n % 16, i])
            value = np.float32(byte - 127) * np.float32(scales[n // 16, group, n % 16])
            assert value == (values[n, k] if n < rows and k < 45 else 0)


def test_gate_and_up_alternate_in_blocks_of_sixteen_rows() -> None:
    spec = ParameterSpec("w", "gate_up", 2 * 40, 32)
    matrix = matrix_of(spec)
    (out,) = packed(spec, "f32", matrix)
    gate, up = out[0::2], out[1::2]
    assert len(gate) == len(up) == 4
    for row in range(64):
        block, within = divmod(row, 16)
        inside = row < 40
        assert np.array_equal(gate[block, :, within], matrix[row] if inside else np.zeros(32))
        assert np.array_equal(up[block, :, within], matrix[40 + row] if inside else np.zeros(32))


@pytest.mark.parametrize("bits", [4, 8])
def test_a_foreign_tail_decodes_to_zero(bits: int) -> None:
    """Other writers may leave anything in the codes past the last column."""
    quantized = QUANTIZERS[f"q{bits}"](np.ones((16, 40), np.float32))
    quantized.words[:, 40 * bits // 32 :] = 0xFFFFFFFF
    words, scales = np.empty((1, 2, bits, 16), np.int32), np.empty((1, 2, 16), np.float16)
    pack_words(quantized, 40, words, scales)
    assert not dequantize(unpack_words(words, scales), 64)[:, 40:].any()
