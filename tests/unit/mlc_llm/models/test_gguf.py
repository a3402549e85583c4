"""What the header of a GGUF file says, and that nothing it says is believed."""

from __future__ import annotations

import json
import random
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from mlc_llm.errors import BadModel, MLCError
from mlc_llm.models.folder import open_folder
from mlc_llm.models.gguf import unpack as unpacking
from mlc_llm.models.gguf.file import read_header
from mlc_llm.models.gguf.tokenizer import merges_by_score, tokenizer
from mlc_llm.models.gguf.unpack import source_of, unpack
from mlc_llm.models.resolve import resolve_model
from mlc_llm.weights.sources import gguf as source
from support import gguf_files, toy_tokenizers
from support.folders import CHAT_TEMPLATE, tiny_llama, write_hf_folder
from support.gguf_files import Stored, Typed, header, value
from support.shared import shared_path

ARCH = tiny_llama(intermediate_size=96)


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLC_LLM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def one_tensor(sizes: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    start = header([], [("w", sizes, kind, offset)])
    return start + bytes(-len(start) % 32 + 128)


HOSTILE = {
    "empty": (b"", "ends within"),
    "another format": (b"PK\3\4" + bytes(60), "is not a GGUF file"),
    "version 1": (header([], [], version=1), "version 1 is not supported"),
    "big-endian": (header([], [], version=3 << 24), "big-endian"),
    "more tensors than any model": (header([], [], num_tensors=1 << 40), "tensors are more than"),
    "tensors that are not there": (header([], [], num_tensors=5), "ends within"),
    "more pairs than any model": (header([], [], num_pairs=1 << 40), "pairs are more than"),
    "a key longer than the file": (
        header([], [], num_pairs=1) + struct.pack("<Q", 1 << 62),
        "ends",
    ),
    "a key that is no text": (header([(b"\xff", value(1))], []), "UTF-8"),
    "a key twice": (header([("a", value(1)), ("a", value(2))], []), "a: appears twice"),
    "an unknown type": (header([("a", struct.pack("<I", 77))], []), "unknown type 77"),
    "a long array": (
        header([("a", value(Typed(9, struct.pack("<IQ", 4, 1 << 40))))], []),
        "elements are more than",
    ),
    "an array that is not there": (
        header([("a", value(Typed(9, struct.pack("<IQ", 4, 1 << 20))))], []),
        "a: the file ends within it",
    ),
    "arrays of arrays": (
        header([("a", value(Typed(9, struct.pack("<IQ", 9, 1))))], []),
        "array of arrays",
    ),
    "an odd alignment": (header([("general.alignment", value(7))], []), "general.alignment"),
    "no alignment": (header([("general.alignment", value(0))], []), "general.alignment"),
    "an alignment that is no power of two": (
        header([("general.alignment", value(24))], []),
        "24 is not a power of two",
    ),
    "an alignment beyond reason": (
        header([("general.alignment", value(Typed(10, struct.pack("<Q", 1 << 63))))], []),
        "is not a power of two below 1 MiB",
    ),
    "an alignment that is text": (
        header([("general.alignment", value("x" * 5000))], []),
        "is not a power of two below 1 MiB",
    ),
    "a text of 4 GiB": (
        header([("a", struct.pack("<IQ", 8, 1 << 32))], []),
        "a: the file ends within it",
    ),
    "texts of which the last is too long": (
        header([("a", value(Typed(9, struct.pack("<IQQ", 8, 1 << 20, 1 << 40))))], []),
        "a: the file ends within it",
    ),
    "a size of nothing": (one_tensor((32, 0)), "tensor w: has the shape [0, 32], which is empty"),
    "no axes": (one_tensor(()), "tensor w: has 0 axes"),
    "too many axes": (one_tensor((1,) * 5), "tensor w: has 5 axes"),
    "a size that overflows": (one_tensor((1 << 63, 1 << 63)), "no file can hold"),
    "rows that are no blocks": (one_tensor((33,), 2), "not a multiple of 32"),
    "an unknown tensor type": (one_tensor(kind=99), "type number 99"),
    "a tensor type that is not read": (one_tensor((256,), 16), "type IQ2_XXS, which is not"),
    "an offset past the end": (one_tensor(offset=1 << 20), "leave the"),
    "an offset that wraps": (one_tensor(offset=(1 << 64) - 32), "leave the"),
    "an odd offset": (one_tensor(offset=3), "not a multiple of 32"),
    "a tensor twice": (header([], [("w", (1,), 0, 0)] * 2) + bytes(64), "w: appears twice"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_lying_header_is_one_line_that_names_the_file(case: str, tmp_path: Path) -> None:
    content, complaint = HOSTILE[case]
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(BadModel) as raised:
        read_header(path)
    assert complaint in raised.value.message
    assert str(path) in raised.value.message
    assert "\n" not in raised.value.message


def test_tensors_that_share_a_byte_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    pairs = [("general.architecture", value("llama"))]
    entries = [("output_norm.weight", (64,), 0, 0), ("token_embd.weight", (32,), 0, 64)]
    start = header(pairs, entries)
    path.write_bytes(start + bytes(-len(start) % 32 + 512))
    with pytest.raises(BadModel, match="overlaps"):
        source.find_tensors([path])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_no_damage_to_a_file_raises_anything_but_our_errors(
    seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = random.Random(seed)
    data = bytearray(whole_model(tmp_path_factory))
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(min(len(data), 14000))
        data[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
    if rng.random() < 0.5:
        del data[rng.randrange(len(data)) :]
    path = tmp_path_factory.mktemp("damaged") / "model.gguf"
    path.write_bytes(data)
    with suppress(MLCError):
        open_folder(unpack(path))
        source.find_tensors([path])


_WHOLE: list[bytes] = []


def whole_model(factory: pytest.TempPathFactory) -> bytes:
    if not _WHOLE:
        path = gguf_files.write_llama(factory.mktemp("whole") / "m.gguf", ARCH, kind="Q4_0")
        _WHOLE.append(path.read_bytes())
    return _WHOLE[0]


def test_a_file_becomes_the_folder_it_was_made_from(tmp_path: Path) -> None:
    write_hf_folder(tmp_path / "hf", ARCH)
    file = gguf_files.write_llama(tmp_path / "toy.gguf", ARCH)
    original, folder = open_folder(tmp_path / "hf"), open_folder(resolve_model(str(file)))
    assert folder.architecture == original.architecture
    assert (folder.bos_token_id, folder.eos_token_ids) == (1, (2,))
    assert folder.chat_template == CHAT_TEMPLATE


def test_a_folder_with_one_file_is_that_model(tmp_path: Path) -> None:
    (tmp_path / "dl").mkdir()
    file = gguf_files.write_llama(tmp_path / "dl/toy.gguf", ARCH)
    (tmp_path / "dl/mmproj-toy.gguf").touch()
    assert resolve_model(str(tmp_path / "dl")) == resolve_model(str(file))
    gguf_files.write_llama(tmp_path / "dl/other.gguf", ARCH)
    with pytest.raises(BadModel, match=r"several GGUF files; name one of other.gguf, toy.gguf"):
        resolve_model(str(tmp_path / "dl"))


def test_a_configuration_beside_the_only_weights_is_that_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "dl").mkdir()
    file = gguf_files.write_llama(tmp_path / "dl/toy.gguf", ARCH)
    (tmp_path / "dl/config.json").write_text("{}")
    folder = resolve_model(str(tmp_path / "dl"))
    assert folder == resolve_model(str(file)) == resolve_model(str(folder))
    (tmp_path / "dl/model.safetensors").touch()
    assert resolve_model(str(tmp_path / "dl")) == tmp_path / "dl"


def test_a_model_that_is_refused_leaves_nothing(tmp_path: Path, own_home: Path) -> None:
    with pytest.raises(BadModel):
        unpack(changed(tmp_path, llama__embedding_length=None))
    assert list((own_home / "gguf").iterdir()) == []


def test_a_file_is_unpacked_once_and_again_when_it_changes(tmp_path: Path) -> None:
    file = gguf_files.write_llama(tmp_path / "toy.gguf", ARCH)
    first = unpack(file)
    (first / "mark").touch()
    assert unpack(file) == first
    assert (source_of(first), source_of(tmp_path)) == (file, tmp_path)
    assert (first / "mark").exists()
    gguf_files.write_llama(file, tiny_llama(intermediate_size=64))
    assert unpack(file) != first


def test_few_folders_are_kept(
    tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "MAX_FOLDERS", 2)
    for i in range(4):
        file = gguf_files.write_llama(tmp_path / f"{i}.gguf", tiny_llama(intermediate_size=64))
        newest = unpack(file)
    assert newest.is_dir()
    assert len(list((own_home / "gguf").iterdir())) == 2


def changed(tmp_path: Path, tensors: dict[str, Stored] | None = None, **values: Any) -> Path:
    """The toy model with some metadata changed; None removes a key. `__` stands for a dot."""
    found = {**gguf_files.model_values(ARCH), **gguf_files.toy_values()}
    found |= {key.replace("__", "."): new for key, new in values.items()}
    found = {key: new for key, new in found.items() if new is not None}
    weights = gguf_files.llama_tensors(ARCH) | (tensors or {})
    return gguf_files.write(tmp_path / "changed.gguf", found, weights)


REFUSED = {
    "an architecture": (
        {"general__architecture": "mamba"},
        "architecture 'mamba' is not supported; use one of bert, deepseek2, gemma",
    ),
    "no architecture": ({"general__architecture": None}, "general.architecture is missing"),
    "one of several files": ({"split__count": 3}, "is part 1 of 3; its name must say so"),
    "a kind of tokenizer": ({"tokenizer__ggml__model": "t5"}, "tokenizer.ggml.model: 't5'"),
    "a way to cut words": (
        {"tokenizer__ggml__model": "gpt2", "tokenizer__ggml__pre": "poro"},
        "tokenizer.ggml.pre: 'poro' is not supported; use one of a.x-4.0",
    ),
    "no tokens": ({"tokenizer__ggml__tokens": None}, "tokenizer.ggml.tokens: is missing"),
    "a token twice": (
        {"tokenizer__ggml__tokens": ["x"] * 9, "tokenizer__ggml__token_type": None}
        | {"tokenizer__ggml__scores": [0.0] * 9},
        "tokenizer.ggml.tokens: has 'x' twice",
    ),
    "too many tokens": (
        {"tokenizer__ggml__tokens": ["x"] * 300, "tokenizer__ggml__token_type": None},
        "300 tokens but token_embd.weight only 290 rows",
    ),
    "the wrong number of types": (
        {"tokenizer__ggml__token_type": [1]},
        "token_type: has 1 entries for",
    ),
    "no scores": ({"tokenizer__ggml__scores": None}, "tokenizer.ggml.scores"),
    "a start token that is none": ({"tokenizer__ggml__bos_token_id": 9999}, "9999 is no token"),
    "text for a number": ({"llama__block_count": "two"}, "llama.block_count: is of type str"),
    "layers that differ": ({"llama__attention__head_count": [2, 4]}, "differs between layers"),
    "no size": ({"llama__embedding_length": None}, "changed.gguf: config.json: Object missing req"),
    "merges of what is no token": (
        {"tokenizer__ggml__model": "gpt2", "tokenizer__ggml__merges": ["a zz"]},
        "tokenizer.ggml.merges: 'a zz' names what is no token",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_model_that_cannot_be_served_is_refused_with_the_reason(
    case: str, tmp_path: Path
) -> None:
    values, complaint = REFUSED[case]
    with pytest.raises(BadModel) as raised:
        open_folder(unpack(changed(tmp_path, **values)))
    assert complaint in raised.value.message


def test_the_divisors_of_llama_3_are_kept_for_every_position(tmp_path: Path) -> None:
    divisors = [1.0, 1.0, 2.5, 8.0, 8.0, 8.0, 8.0, 8.0]
    tensor = Stored(0, (8,), struct.pack("<8f", *divisors))
    arch = open_folder(unpack(changed(tmp_path, {"rope_freqs.weight": tensor}))).architecture
    assert arch.rope_scaling is not None
    assert arch.rope_scaling.factors == tuple(divisors)  # type: ignore[union-attr]
    assert arch.rope_scaling.attention_factor == 1.0  # type: ignore[union-attr]
    assert arch.context_window_size == ARCH.context_window_size


def test_tokens_that_end_a_turn_end_answers_and_sampling_is_taken_over(tmp_path: Path) -> None:
    toy = gguf_files.toy_values()
    tokens = [*toy["tokenizer.ggml.tokens"][:-2], "<|im_end|>", "<|other|>"]
    types = [*toy["tokenizer.ggml.token_type"][:-2], 3, 3]
    file = changed(
        tmp_path,
        tokenizer__ggml__tokens=tokens,
        tokenizer__ggml__token_type=types,
        general__sampling__temp=0.5,
        general__sampling__top_k=20,
    )
    folder = open_folder(unpack(file))
    assert folder.eos_token_ids == (2, len(tokens) - 2)
    assert (folder.defaults.temperature, folder.defaults.top_k) == (0.5, 20)


TEXTS = (
    "Once upon a time, there was a little girl.",
    "  two  spaces\n\n\tand 12345 numbers, I'LL say it's DON'T\r\n",
    "ünïcödé — 漢字かな 🎉👍🏽 e\u0301",
    "",
    " ",
    "I'LL say fooBar2's x86_64 3.14 1,000,000\r\n\r\n  \n\n x\t",
    "中文123测试。！？ 한국어 ไทย مرحبا हिन्दी",
    "\u0663\u0664 ½ Ⅷ ² \U0001d7d8\u00a0nbsp\u3000wide\u2028line a\u0301\u0301",
    "👨\u200d👩\u200d👧 ...!!!??? \"'''' ```` $#@%^&*()",
)


def test_a_toy_byte_level_tokenizer_survives(tmp_path: Path) -> None:
    document = toy_tokenizers.byte_level(["th", "the", "li"])
    document["model"] |= {
        "merges": [["t", "h"], ["l", "i"], ["th", "e"]],
        "ignore_merges": False,
    }
    check_same(document, "default", tmp_path)


def test_a_toy_sentencepiece_survives(tmp_path: Path) -> None:
    check_same(toy_tokenizers.byte_fallback([" the", " little", "Once"]), "default", tmp_path)


@pytest.mark.parametrize(
    ("name", "pre"),
    [
        ("gpt2", "gpt-2"),
        ("minimind", "gpt-2"),
        ("phi3", "default"),
        ("qwen2.5", "qwen2"),
        ("llama2", "default"),
        ("mistral-v3", "default"),
    ],
)
def test_a_real_tokenizer_survives(name: str, pre: str, tmp_path: Path) -> None:
    folder = shared_path(f"data/tokenizers/{name}")
    document = json.loads((folder / "tokenizer.json").read_text())
    document["model"].setdefault("byte_fallback", False)
    merges = document["model"]["merges"]
    if merges and isinstance(merges[0], str):
        document["model"]["merges"] = [merge.split(" ") for merge in merges]
    check_same(document, pre, tmp_path)


def test_words_of_llama_3_are_cut_as_its_own_tokenizer_cuts_them(tmp_path: Path) -> None:
    folder = shared_path("data/tokenizers/llama3")
    expected = json.loads((folder / "tokenizer.json").read_bytes())["pre_tokenizer"]
    values = gguf_files.tokenizer_values(toy_tokenizers.byte_level(["the"]))
    values |= {"tokenizer.ggml.pre": "llama-bpe", "general.architecture": "llama"}
    file = gguf_files.write(tmp_path / "t.gguf", values, {})
    assert tokenizer(read_header(file))["pre_tokenizer"] == expected


def check_same(document: dict[str, Any], pre: str, tmp_path: Path) -> None:
    """The tokenizer that a GGUF file describes cuts texts as the one it was written from."""
    values = {**gguf_files.tokenizer_values(document), "tokenizer.ggml.pre": pre}
    bos = (document.get("post_processor") or {}).get("special_tokens")
    values["tokenizer.ggml.add_bos_token"] = bool(bos)
    if bos:
        values["tokenizer.ggml.bos_token_id"] = next(iter(bos.values()))["ids"][0]
    file = gguf_files.write(tmp_path / "t.gguf", {"general.architecture": "llama", **values}, {})
    found = Tokenizer.from_str(json.dumps(tokenizer(read_header(file))))
    expected = Tokenizer.from_str(json.dumps(document))
    special = [added["content"] for added in document["added_tokens"]][:3]
    for text in (*TEXTS, f"a{' b'.join(special)}c"):
        assert found.encode(text).ids == expected.encode(text).ids, text
        assert found.decode(found.encode(text).ids) == expected.decode(expected.encode(text).ids)


def test_a_piece_too_long_is_not_looked_into() -> None:
    pieces = {"a" * n: (0.0, n) for n in (1, 255, 256, 257)}
    assert merges_by_score(pieces) == [("a", "a" * 255), ("a" * 255, "a")]


def test_pieces_are_made_in_the_order_of_their_scores() -> None:
    pieces = {"a": (0.0, 0), "b": (0.0, 1), "ab": (-1.0, 2), "ba": (-0.5, 3), "aba": (-2.0, 4)}
    assert merges_by_score(pieces) == [("b", "a"), ("a", "b"), ("a", "ba"), ("ab", "a")]
