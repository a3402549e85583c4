"""Embedding requests and responses, on a toy model."""

from __future__ import annotations

import asyncio
import math
import struct
from array import array
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest

from mlc_llm.errors import BadModel, BadRequest, EngineUnavailable, PromptTooLong
from mlc_llm.protocol.embeddings import EmbeddingRequest
from mlc_llm.protocol.messages import Finished
from mlc_llm.protocol.requests import from_arguments
from mlc_llm.serve.embeddings import Embeddings, embedded, prepare_embeddings
from mlc_llm.serve.request.prepare import ServedModel
from support.byte_model import READY, VOCAB, write_folder


@pytest.fixture
def model(tmp_path: Path) -> ServedModel:
    return ServedModel.load(write_folder(tmp_path / "toy"), "toy")


def prepared(model: ServedModel, what: Any, **fields: Any) -> Embeddings:
    request = from_arguments(EmbeddingRequest, {"input": what, **fields})
    return asyncio.run(prepare_embeddings(request, model, READY, "e"))


def ids(embeddings: Embeddings) -> list[list[int]]:
    return [list(struct.unpack(f"<{len(s.prompt) // 4}i", s.prompt)) for s in embeddings.submits]


def ends(*vectors: list[float]) -> list[Finished]:
    return [Finished(f"e-{i}", 3, 0, vector=array("f", v).tobytes()) for i, v in enumerate(vectors)]


def test_every_form_of_input_becomes_requests(model: ServedModel) -> None:
    assert ids(prepared(model, "Hello")) == [[1, 259]]
    assert ids(prepared(model, ["Hello", "Hello"])) == [[1, 259]] * 2
    assert ids(prepared(model, [5, 6])) == [[5, 6]]
    assert ids(prepared(model, [[5], [6, 7]])) == [[5], [6, 7]]
    assert ids(prepared(model, "Hello", add_special_tokens=False)) == [[259]]
    assert ids(prepared(model, [5] * 50, truncate_prompt_tokens=2)) == [[5, 5]]
    generations = [
        prepared(model, "Hello", pooling=p).submits[0].generation for p in (None, "mean")
    ]
    assert [(g.pooling, g.max_tokens) for g in generations] == [("last", 0), ("mean", 0)]


def test_a_model_that_was_trained_to_embed_says_how(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "toy")
    (folder / "1_Pooling").mkdir()
    config = folder / "1_Pooling" / "config.json"
    for key, pooling in (("cls_token", "cls"), ("mean_tokens", "mean"), ("lasttoken", "last")):
        config.write_text(f'{{"word_embedding_dimension": 64, "pooling_mode_{key}": true}}')
        found = prepared(ServedModel.load(folder, "toy"), "Hello").submits[0]
        assert found.generation.pooling == pooling
    config.write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(BadModel, match="only one of cls, mean and lasttoken"):
        ServedModel.load(folder, "toy")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": ["a", [1]]}, "input"),
        ({"input": [VOCAB]}, "input"),
        ({"input": [-1]}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": "\ud800"}, "input"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": 65}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "pooling": "max"}, "pooling"),
        ({"input": "a", "truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"input": [[5] * 32]}, "input"),
    ],
    ids=lambda case: str(case)[:60],
)
def test_what_cannot_be_embedded_is_refused_by_name(
    model: ServedModel, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        prepared(model, fields.pop("input"), **fields)
    assert caught.value.param == param


def test_an_input_that_does_not_fit_is_too_long(model: ServedModel) -> None:
    with pytest.raises(PromptTooLong):
        prepared(model, "a" * 5000)


def test_vectors_have_the_length_one_unless_asked_for_as_they_are(model: ServedModel) -> None:
    response = embedded(prepared(model, [[5], [6]]), ends([3.0, 4.0], [0.0, 0.0]))
    assert response.data[0].embedding == pytest.approx([0.6, 0.8])
    assert response.data[1].embedding == [0.0, 0.0]
    assert [entry.index for entry in response.data] == [0, 1]
    assert (response.usage.prompt_tokens, response.usage.total_tokens) == (6, 6)
    raw = embedded(prepared(model, [5], normalize=False), ends([3.0, 4.0]))
    assert raw.data[0].embedding == [3.0, 4.0]


def test_fewer_dimensions_are_the_first_ones_at_length_one(model: ServedModel) -> None:
    found = embedded(prepared(model, [5], dimensions=2), ends([3.0, 4.0, 100.0])).data[0].embedding
    assert found == pytest.approx([0.6, 0.8])


def test_base64_holds_little_endian_floats(model: ServedModel) -> None:
    found = embedded(prepared(model, [5], encoding_format="base64"), ends([3.0, 4.0]))
    encoded = found.data[0].embedding
    assert isinstance(encoded, str)
    values = struct.unpack("<2f", b64decode(encoded))
    assert math.hypot(*values) == pytest.approx(1)


def test_inputs_that_the_engine_gave_up_are_no_vectors(model: ServedModel) -> None:
    with pytest.raises(EngineUnavailable):
        embedded(prepared(model, [[5], [6]]), [*ends([1.0]), Finished("e-1", 1, 0)])
