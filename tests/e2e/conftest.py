"""Servers shared by the end-to-end tests: one per model and set of flags, for the whole session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from support.reference_text import greedy_text
from support.server import Server
from support.shared import shared_path

PROMPT = "Once upon a time"


@pytest.fixture(scope="session")
def packaged() -> Iterator[Server]:
    """`mlc_llm serve` with no model named, debug and tracing on."""
    with Server("--enable-debug", "--enable-tracing") as server:
        yield server


@pytest.fixture(scope="module")
def packaged_objects() -> Iterator[Server]:
    """The packaged model with arguments of calls as MLC LLM gives them."""
    with Server("--tool-call-arguments", "object") as server:
        yield server


@pytest.fixture(scope="session")
def stories_folder() -> Path:
    """stories260K, a real trained Llama."""
    return shared_path("data/models/stories260K-hf")


@pytest.fixture(scope="session")
def stories(stories_folder: Path) -> Iterator[Server]:
    """stories260K served with room for eight sequences."""
    with Server(str(stories_folder), "--overrides", "max_num_sequence=8") as server:
        yield server


@pytest.fixture(scope="session")
def stories_text(stories_folder: Path) -> str:
    """The oracle's 200 greedy tokens after PROMPT."""
    return greedy_text(stories_folder, PROMPT, 200, bos=True)


@pytest.fixture
def client(packaged: Server) -> Iterator[openai.OpenAI]:
    """The openai package pointed at the packaged model."""
    with openai.OpenAI(base_url=packaged.base_url, api_key="none", max_retries=0) as found:
        yield found
