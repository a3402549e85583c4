"""Greedy text of a real trained model equals the float64 oracle's, however it is served."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from support.server import Server

from .conftest import PROMPT

OTHERS = [f"One day, a {animal} named" for animal in "cat dog fox owl hen cow pig".split()]


def complete(server: Server, prompt: str, **fields: object) -> str:
    body = {"prompt": prompt, "max_tokens": 200, "temperature": 0, **fields}
    answer = requests.post(f"{server.base_url}/completions", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["text"]


def stream(server: Server, prompt: str) -> str:
    body = {"prompt": prompt, "max_tokens": 200, "temperature": 0, "stream": True}
    text = ""
    with requests.post(
        f"{server.base_url}/completions", json=body, stream=True, timeout=120
    ) as answer:
        for line in answer.iter_lines():
            if line and line != b"data: [DONE]":
                text += json.loads(line[6:])["choices"][0]["text"]
    return text


def test_alone(stories: Server, stories_text: str) -> None:
    assert complete(stories, PROMPT) == stories_text


def test_streamed(stories: Server, stories_text: str) -> None:
    assert stream(stories, PROMPT) == stories_text


def test_among_seven_others(stories: Server, stories_text: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda p: complete(stories, p), [PROMPT, *OTHERS]))
    assert found[0] == stories_text


@pytest.mark.parametrize("mode", ["hybrid", "chunked"])
def test_with_every_prompt_prefilled_in_small_chunks(stories_folder, stories_text, mode) -> None:
    flags = ("--overrides", "prefill_chunk_size=3;max_num_sequence=8", "--prefill-mode", mode)
    with Server(str(stories_folder), *flags) as server, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda p: complete(server, p), [PROMPT, *OTHERS]))
        assert found[0] == stories_text


def test_preempted_because_the_cache_is_small(stories_folder, stories_text) -> None:
    flags = ("--overrides", "max_total_seq_length=384;max_num_sequence=8")
    with Server(str(stories_folder), *flags) as server, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda p: complete(server, p), [*OTHERS, PROMPT]))
        assert server.stats()["vllm:num_preemptions_total"] > 0
        assert found[-1] == stories_text


def test_a_seed_gives_the_same_text_alone_and_in_a_batch(stories: Server) -> None:
    sampled = {"temperature": 1.0, "top_p": 0.95, "seed": 42}
    alone = complete(stories, PROMPT, **sampled)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda p: complete(stories, p, **sampled), [*OTHERS, PROMPT]))
    assert found[-1] == alone
