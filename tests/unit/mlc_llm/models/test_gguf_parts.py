"""A model in several GGUF files is the model in one, and a part that is wrong is named."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mlc_llm.errors import BadModel
from mlc_llm.models.folder import open_folder
from mlc_llm.models.gguf.parts import parts_of
from mlc_llm.models.resolve import resolve_model
from mlc_llm.weights.source import read_rows
from mlc_llm.weights.sources.find import find_tensors
from support import gguf_files
from support.folders import tiny_llama
from support.gguf_files import Typed

ARCH = tiny_llama()
VALUES = {**gguf_files.model_values(ARCH), **gguf_files.toy_values()}
TENSORS = gguf_files.llama_tensors(ARCH, 5)


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLC_LLM_HOME", str(tmp_path / "home"))


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    (tmp_path / "dl").mkdir()
    return gguf_files.write_parts(tmp_path / "dl", VALUES, TENSORS, 3)


def test_parts_are_the_model_in_one_file(parts: list[Path], tmp_path: Path) -> None:
    whole = gguf_files.write(tmp_path / "whole.gguf", VALUES, TENSORS)
    one, several = resolve_model(str(whole)), resolve_model(str(parts[0]))
    assert open_folder(several).architecture == open_folder(one).architecture
    expected, found = find_tensors(one), find_tensors(several)
    assert set(found) == set(expected)
    assert {tensor.path for tensor in found.values()} == set(parts)
    for name, tensor in expected.items():
        rows = tensor.shape[0]
        assert np.array_equal(read_rows(found[name], 0, rows), read_rows(tensor, 0, rows)), name


def test_any_part_and_the_folder_name_the_model(parts: list[Path]) -> None:
    found = {resolve_model(str(path)) for path in (*parts, parts[0].parent)}
    assert len(found) == 1


def test_parts_may_be_links_as_in_the_hubs_own_cache(parts: list[Path], tmp_path: Path) -> None:
    (tmp_path / "snapshot").mkdir()
    for i, path in enumerate(parts):
        blob = path.rename(tmp_path / f"blob{i}")
        (tmp_path / "snapshot" / path.name).symlink_to(blob)
    folder = resolve_model(str(tmp_path / "snapshot"))
    assert len(find_tensors(folder)) == len(TENSORS)


def test_a_folder_with_two_models_in_parts_lists_the_first_parts(parts: list[Path]) -> None:
    for path in parts:
        path.with_name(path.name.replace("model", "other")).write_bytes(path.read_bytes())
    with pytest.raises(BadModel, match=r"name one of model-00001-of-00003.gguf, other-00001-of"):
        resolve_model(str(parts[0].parent))


def without(number: int) -> Callable[[list[Path]], None]:
    return lambda parts: parts[number].unlink()


def swapped(parts: list[Path]) -> None:
    content = parts[1].read_bytes()
    parts[1].write_bytes(parts[2].read_bytes())
    parts[2].write_bytes(content)


def of_other_count(parts: list[Path]) -> None:
    gguf_files.write_parts(parts[0].parent, VALUES, TENSORS, 2)
    (parts[0].parent / "model-00002-of-00002.gguf").replace(parts[1])
    (parts[0].parent / "model-00001-of-00002.gguf").unlink()


def with_a_tensor_twice(parts: list[Path]) -> None:
    split = {"split.no": 2, "split.count": 3}
    gguf_files.write(parts[2], split, {"token_embd.weight": TENSORS["token_embd.weight"]})


def with_too_few(parts: list[Path]) -> None:
    gguf_files.write(parts[2], {"split.no": 2, "split.count": 3}, {})


def with_text(parts: list[Path]) -> None:
    gguf_files.write(parts[2], {"split.no": "2", "split.count": 3}, {})


def not_a_part(parts: list[Path]) -> None:
    gguf_files.write(parts[2], {}, {})


def truncated(parts: list[Path]) -> None:
    parts[1].write_bytes(parts[1].read_bytes()[:-64])


WRONG: dict[str, tuple[Callable[[list[Path]], None], str]] = {
    "the first missing": (without(0), "00001-of-00003.gguf: is missing; all 3 parts"),
    "one missing": (without(1), "00002-of-00003.gguf: is missing; all 3 parts"),
    "swapped": (swapped, "00002-of-00003.gguf: is part 3 of 3 and not 2 of 3"),
    "of another model": (of_other_count, "is part 2 of 2 and not 2 of 3"),
    "a tensor twice": (with_a_tensor_twice, "tensor token_embd.weight: is also in"),
    "too few tensors": (with_too_few, "split.tensors.count is"),
    "a number that is text": (with_text, "00003-of-00003.gguf: split.no: is of type str"),
    "a file of another kind": (not_a_part, "00003-of-00003.gguf: is part 1 of 1 and not 3 of 3"),
    "truncated": (truncated, "00002-of-00003.gguf: tensor "),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_part_is_one_line_that_names_it(case: str, parts: list[Path]) -> None:
    harm, complaint = WRONG[case]
    harm(parts)
    with pytest.raises(BadModel) as raised:
        find_tensors(resolve_model(str(parts[0].parent)))
    assert complaint in raised.value.message
    assert "\n" not in raised.value.message


def test_a_part_that_vanishes_after_the_model_was_unpacked_is_named(parts: list[Path]) -> None:
    folder = resolve_model(str(parts[0]))
    parts[2].unlink()
    with pytest.raises(BadModel, match=r"00003-of-00003\.gguf: is missing"):
        find_tensors(folder)


@pytest.mark.parametrize("name", ["x-00000-of-00002", "x-00003-of-00002", "x-00001-of-99999"])
def test_a_name_that_cannot_be_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="as its name says"):
        parts_of(tmp_path / f"{name}.gguf")


def test_a_first_part_under_another_name_says_what_it_is(parts: list[Path]) -> None:
    path = parts[0].rename(parts[0].with_name("renamed.gguf"))
    with pytest.raises(BadModel, match=r"renamed.gguf: is part 1 of 3; its name must say so"):
        resolve_model(str(path))


def test_counts_beyond_reason_need_no_memory(tmp_path: Path) -> None:
    many = {"split.count": Typed(10, struct.pack("<Q", 1 << 63)), "split.no": 0}
    path = gguf_files.write(tmp_path / "x-00001-of-00001.gguf", many, {})
    with pytest.raises(BadModel, match="is part 1 of 9223372036854775808"):
        resolve_model(str(path))
