"""Blocks of GGUF files decode to what their description says, value by value."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mlc_llm.models.gguf.file import TYPES
from mlc_llm.quantization.gguf import DECODERS, as_byte_groups, as_groups
from mlc_llm.quantization.group import dequantize

Block = bytes
KINDS = {kind.name: kind for kind in TYPES.values() if kind.name in DECODERS}


def half(block: Block, at: int) -> np.float32:
    return np.float32(np.frombuffer(block[at : at + 2], "<f2")[0])


def nibble(packed: bytes, i: int, run: int) -> int:
    """Value i of runs of `run` bytes that hold two runs of values each."""
    byte = packed[i // (2 * run) * run + i % run]
    return byte >> 4 if i // run % 2 else byte & 15


def signed(byte: int) -> int:
    return byte - 256 if byte > 127 else byte


def six_bits(packed: bytes, i: int) -> tuple[int, int]:
    """Scale and minimum of run i."""
    if i < 4:
        return packed[i] & 63, packed[i + 4] & 63
    low = packed[i + 4]
    return low & 15 | packed[i - 4] >> 6 << 4, low >> 4 | packed[i] >> 6 << 4


def with_minimum(block: Block, code: int, run: int) -> np.float32:
    scale, minimum = six_bits(block[4:16], run)
    large = np.float32(code) * (half(block, 0) * np.float32(scale))
    return np.float32(large - half(block, 2) * np.float32(minimum))


def fifth(block: Block, at: int, i: int) -> int:
    return 16 * (int.from_bytes(block[at : at + 4], "little") >> i & 1)


def q6(block: Block, i: int) -> np.float32:
    part, inner = divmod(i, 128)
    run, at = divmod(inner, 32)
    low = block[64 * part + run % 2 * 32 + at]
    low = low >> 4 if run > 1 else low & 15
    high = block[128 + 32 * part + at] >> 2 * run & 3
    scale = signed(block[192 + i // 16])
    return np.float32(low + 16 * high - 32) * (np.float32(scale) * half(block, 208))


def q2(block: Block, i: int) -> np.float32:
    part, run, at = i // 128, i // 32 % 4, i % 32
    code = block[16 + 32 * part + at] >> 2 * run & 3
    scale = np.float32(block[i // 16] & 15) * half(block, 80)
    return np.float32(code) * scale - np.float32(block[i // 16] >> 4) * half(block, 82)


def q3(block: Block, i: int) -> np.float32:
    part, run, at, piece = i // 128, i // 32 % 4, i % 32, i // 16
    code = block[32 + 32 * part + at] >> 2 * run & 3 | (block[at] >> i // 32 & 1) << 2
    low = block[96 + piece % 8] >> (4 if piece > 7 else 0) & 15
    high = block[104 + piece % 4] >> 2 * (piece // 4) & 3
    return np.float32(code - 4) * (np.float32(low + 16 * high - 32) * half(block, 108))


CURVE = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def iq4_xs(block: Block, i: int) -> np.float32:
    run = i // 32
    low = block[4 + run // 2] >> 4 * (run % 2) & 15
    high = int.from_bytes(block[2:4], "little") >> 2 * run & 3
    scale = np.float32(low + 16 * high - 32) * half(block, 0)
    return np.float32(CURVE[nibble(block[8:], i, 16)]) * scale


ONE_BY_ONE: dict[str, Callable[[Block, int], np.float32]] = {
    "Q4_0": lambda b, i: np.float32(nibble(b[2:], i, 16) - 8) * half(b, 0),
    "Q4_1": lambda b, i: np.float32(nibble(b[4:], i, 16)) * half(b, 0) + half(b, 2),
    "Q5_0": lambda b, i: np.float32((nibble(b[6:], i, 16) | fifth(b, 2, i)) - 16) * half(b, 0),
    "Q5_1": lambda b, i: (
        np.float32(nibble(b[8:], i, 16) | fifth(b, 4, i)) * half(b, 0) + half(b, 2)
    ),
    "Q8_0": lambda b, i: np.float32(signed(b[2 + i])) * half(b, 0),
    "Q4_K": lambda b, i: with_minimum(b, nibble(b[16:], i, 32), i // 32),
    "Q5_K": lambda b, i: with_minimum(
        b, nibble(b[48:], i, 32) | 16 * (b[16 + i % 32] >> i // 32 & 1), i // 32
    ),
    "Q6_K": q6,
    "Q2_K": q2,
    "Q3_K": q3,
    "IQ4_NL": lambda b, i: np.float32(CURVE[nibble(b[2:], i, 16)]) * half(b, 0),
    "IQ4_XS": iq4_xs,
}


def random_blocks(name: str, count: int) -> NDArray[np.uint8]:
    """Any bytes, but scales that are finite."""
    rng = np.random.default_rng(len(name))
    blocks = rng.integers(0, 256, (count, KINDS[name].nbytes), dtype=np.uint8)
    places = {"Q6_K": (208,), "Q2_K": (80, 82), "Q3_K": (108,), "IQ4_XS": (0,)}
    for at in places.get(name, (0, 2)):
        halves = rng.standard_normal((count, 1)).astype("<f2")
        blocks[:, at : at + 2] = halves.view(np.uint8)
    return blocks


@pytest.mark.parametrize("name", KINDS)
def test_every_value_of_a_block_is_what_the_format_says(name: str) -> None:
    blocks = random_blocks(name, 3)
    expected = [
        [ONE_BY_ONE[name](block.tobytes(), i) for i in range(KINDS[name].size)] for block in blocks
    ]
    found = DECODERS[name](blocks)
    assert found.dtype == np.float32
    assert np.array_equal(found, np.array(expected, np.float32))


@pytest.mark.parametrize("name", KINDS)
def test_blocks_that_llama_cpp_wrote_have_the_values_it_reads(name: str) -> None:
    """Random weights, written as each type and then read back as F32 by its llama-quantize."""
    with np.load(Path(__file__).with_name("gguf_blocks.npz"), allow_pickle=False) as recorded:
        assert np.array_equal(DECODERS[name](recorded[name]), recorded[f"{name}.values"])


def test_every_type_of_the_table_can_be_decoded() -> None:
    assert set(KINDS) | {"F32", "F16", "BF16"} == {kind.name for kind in TYPES.values()}


def test_q8_0_is_q8f16_1() -> None:
    rows = random_blocks("Q8_0", 12)
    rows[:, 2:][rows[:, 2:] == 0x80] = 0x81
    found = as_byte_groups(rows.reshape(4, -1))
    values = found.words.view(np.uint8).astype(np.float32) - 127
    values = values.reshape(4, 3, 32) * found.scales.astype(np.float32)[:, :, None]
    assert np.array_equal(values.reshape(12, 32), DECODERS["Q8_0"](rows))


def test_q4_0_is_q4f16_1_with_the_codes_turned_round() -> None:
    rows = random_blocks("Q4_0", 12).reshape(4, -1)
    assert np.array_equal(
        dequantize(as_groups(rows), 96), DECODERS["Q4_0"](rows.reshape(-1, 18)).reshape(4, 96)
    )
