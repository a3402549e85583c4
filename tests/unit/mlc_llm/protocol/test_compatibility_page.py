"""docs/openai-compatibility.md has every field of every request, and says where it is tested."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from msgspec import Struct

from mlc_llm.protocol.embeddings import EmbeddingRequest
from mlc_llm.protocol.requests import ChatCompletionRequest, CompletionRequest, GenerationFields
from mlc_llm.protocol.responses_api import ResponsesRequest
from mlc_llm.protocol.text_tools import DetokenizeRequest, ScoreRequest, TokenizeRequest
from support.openapi import Schemas
from support.shared import shared_path

ROOT = Path(__file__).resolve().parents[4]
PAGE = (ROOT / "docs/openai-compatibility.md").read_text()
ROW = re.compile(r"^\| `(\w+)` \| (\w+) \|.*\| `([\w/.]+)` \|$", re.MULTILINE)
KINDS = (
    GenerationFields,
    ChatCompletionRequest,
    CompletionRequest,
    ResponsesRequest,
    EmbeddingRequest,
    TokenizeRequest,
    DetokenizeRequest,
    ScoreRequest,
)
STATES = {"yes", "accepted", "refused"}


def rows(kind: type[Struct]) -> list[tuple[str, str, str]]:
    """(field, state, test) of the table of a request."""
    sections = [s for s in PAGE.split("\n## ") if f"`{kind.__name__}`" in s.splitlines()[0]]
    assert len(sections) == 1, f"the page has {len(sections)} sections about {kind.__name__}"
    return ROW.findall(sections[0])


def own_fields(kind: type[Struct]) -> set[str]:
    """Those that are in a table of their own."""
    fields = set(kind.__struct_fields__)
    if issubclass(kind, GenerationFields) and kind is not GenerationFields:
        fields -= set(GenerationFields.__struct_fields__)
    return fields


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_field_has_its_row(kind: type[Struct]) -> None:
    table = [name for name, _, _ in rows(kind)]
    assert len(table) == len(set(table))
    assert set(table) == own_fields(kind), "update docs/openai-compatibility.md"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_row_names_a_test_that_exists(kind: type[Struct]) -> None:
    for name, state, test in rows(kind):
        assert state in STATES, name
        assert (ROOT / "tests" / test).is_file(), (name, test)


@pytest.mark.parametrize(
    ("kind", "schema"),
    [
        (ChatCompletionRequest, "CreateChatCompletionRequest"),
        (CompletionRequest, "CreateCompletionRequest"),
        (ResponsesRequest, "CreateResponse"),
        (EmbeddingRequest, "CreateEmbeddingRequest"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_every_field_of_openai_is_on_the_page(kind: type[Struct], schema: str) -> None:
    schemas = Schemas(shared_path("data/suites/openai_openapi.yaml"))
    missing = schemas.fields(schema) - set(kind.__struct_fields__)
    assert all(f"`{name}`" in PAGE for name in missing), missing
