"""Blocks of GGUF files decode to what their description says, value by value."""

from __future__ import annotations

from collections.abc import Callable

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
}


def random_blocks(name: str, count: int) -> NDArray[np.uint8]:
    """Any bytes, but scales that are finite."""
    rng = np.random.default_rng(len(name))
    blocks = rng.integers(0, 256, (count, KINDS[name].nbytes), dtype=np.uint8)
    for at in {"Q6_K": (208,)}.get(name, (0, 2)):
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
