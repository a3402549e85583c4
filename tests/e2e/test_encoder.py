"""An encoder behind the server: embeddings, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openai
import pytest
import tokenizers

from mlc_llm.models.folder import open_folder
from mlc_llm.quantization.scheme import SCHEMES
from mlc_llm.weights.load import load_weights
from mlc_llm.weights.pack import unpack_weights
from support.checkpoints import FIXTURES, load, write_folder
from support.folders import write_json
from support.oracle import Oracle
from support.server import Server
from support.toy_tokenizers import word_pieces

WORDS = ["the", "dog", "sleep", "##s", "##ing", "run", ",", ".", *(f"w{i}" for i in range(100))]
TEXTS = ["The dog sleeps.", "the dog, running", "run"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, recorded = tmp_path_factory.mktemp("encoder"), load(FIXTURES / "bert.npz")
    write_folder(path, recorded.config, recorded.tensors)
    write_json(path / "tokenizer.json", word_pieces(WORDS))
    (path / "1_Pooling").mkdir()
    write_json(path / "1_Pooling" / "config.json", {"pooling_mode_cls_token": True})
    return path


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[openai.OpenAI]:
    with (
        Server(str(folder)) as server,
        openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as found,
    ):
        yield found


def vectors(folder: Path, texts: list[str], pooling: str) -> list[np.ndarray]:
    """What the oracle makes of texts, of length 1."""
    opened, scheme = open_folder(folder), SCHEMES["q0f32"]
    weights = unpack_weights(opened.architecture, scheme, load_weights(opened, scheme))
    oracle = Oracle(opened.architecture, weights)
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    found = []
    for text in texts:
        states = oracle.logits(tokenizer.encode(text).ids)
        vector = states[0] if pooling == "cls" else states.mean(axis=0)
        found.append(vector / np.linalg.norm(vector))
    return found


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_texts_are_embedded_as_the_folder_or_the_request_says(
    client: openai.OpenAI, folder: Path, pooling: str
) -> None:
    asked = {} if pooling == "cls" else {"pooling": pooling}
    texts = [*TEXTS, *(" ".join(f"w{i}" for i in range(n)) for n in (17, 99)), "dog " * 318]
    for _ in range(2):  # nothing of the first time may be found in a cache
        found = client.embeddings.create(model=folder.name, input=texts * 4, extra_body=asked)
        expected = vectors(folder, texts, pooling) * 4
        for entry, vector in zip(found.data, expected, strict=True):
            np.testing.assert_allclose(entry.embedding, vector, atol=1e-4)


def test_what_would_generate_is_refused_in_one_sentence(
    client: openai.OpenAI, folder: Path
) -> None:
    with pytest.raises(openai.BadRequestError, match="only makes embeddings; send its texts to"):
        client.chat.completions.create(
            model=folder.name, messages=[{"role": "user", "content": "hi"}]
        )
    with pytest.raises(openai.BadRequestError, match="only makes embeddings"):
        client.completions.create(model=folder.name, prompt="hi", stream=True)
    with pytest.raises(openai.BadRequestError, match="only makes embeddings"):
        client.responses.create(model=folder.name, input="hi")


def test_an_input_longer_than_the_positions_is_refused(client: openai.OpenAI, folder: Path) -> None:
    with pytest.raises(openai.BadRequestError, match="length is 320 tokens; an input has 321"):
        client.embeddings.create(model=folder.name, input="dog " * 319)
    cut = client.embeddings.create(
        model=folder.name, input="dog " * 319, extra_body={"truncate_prompt_tokens": 8}
    )
    assert cut.usage.prompt_tokens == 8
