"""Tensors get their places by the rule that TVM's writer follows."""

from __future__ import annotations

from mlc_llm.weights.shards import plan, record


def sizes(*counts: int) -> list[list[str]]:
    tensors = [record(str(i), (count,), "float8_e4m3fn") for i, count in enumerate(counts)]
    return [[r.name for r in shard.records] for shard in plan(tensors, 100)]


def test_small_tensors_fill_a_file_in_order() -> None:
    assert sizes(40, 40, 10, 30, 5) == [["0", "1", "2"], ["3", "4"]]


def test_a_large_tensor_gets_a_file_of_its_own_and_the_current_one_goes_on() -> None:
    assert sizes(60, 50, 20) == [["1"], ["0", "2"]]


def test_a_large_tensor_that_fits_stays_in_the_current_file() -> None:
    assert sizes(30, 60, 40) == [["0", "1"], ["2"]]


def test_offsets_count_what_lies_before() -> None:
    tensors = [record(str(i), (count,), "float16") for i, count in enumerate((3, 5))]
    (shard,) = plan(tensors)
    assert [r.byte_offset for r in shard.records] == [0, 6]
    assert shard.nbytes == 16
