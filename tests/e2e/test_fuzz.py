"""What the server says of itself in /openapi.json is true, whatever it is sent: schemathesis."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from mlc_api.openapi import document
from support.server import Server

schemathesis = pytest.importorskip("schemathesis", reason="sends what the description allows")

DOCUMENT = document(debug=True, with_key=False, version="0")
SCHEMA = schemathesis.openapi.from_dict(json.loads(json.dumps(DOCUMENT)))
NUM_EXAMPLES = 100
LENGTHS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "n", "best_of")
TOLERANT = [
    schemathesis.checks.negative_data_rejection,
    schemathesis.checks.positive_data_acceptance,
]
"""The description says what fields are for, not every rule of what they may hold."""


PLAIN = {
    "messages": [{"role": "user", "content": "hi"}],
    **dict.fromkeys(("prompt", "input", "text_1", "text_2"), "hi"),
}


def shorten(body: Any, kind: str) -> None:
    """Ask for a short answer of the model that is there, and for one that it can give, if plain."""
    if not isinstance(body, dict):
        return
    body.pop("model", None)
    if kind != "odd":
        kept = {name: value for name, value in body.items() if value in (None, True, False)}
        asked = {name: PLAIN[name] for name in PLAIN if name in body}
        body.clear()
        body.update(kept | asked | {"stream": kind == "streamed"})
    for field in LENGTHS[:3]:
        body.setdefault(field, 3)
    for field in LENGTHS:
        if isinstance(body.get(field), int):
            body[field] = min(body[field], 3)


@SCHEMA.parametrize()
@SCHEMA.given(kind=st.sampled_from(["odd", "plain", "streamed"]))
@settings(
    max_examples=NUM_EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_any_request_is_answered_as_the_description_says(
    packaged: Server, case: Any, kind: str
) -> None:
    shorten(case.body, kind)
    case.call_and_validate(base_url=packaged.root, timeout=60, excluded_checks=TOLERANT)


@pytest.mark.parametrize("path", [p for p, m in DOCUMENT["paths"].items() if "get" in m])
def test_what_can_be_fetched_is_there(packaged: Server, path: str) -> None:
    url = packaged.root + path.replace("{model_id}", "packaged").replace("{response_id}", "none")
    answer = requests.get(url, timeout=60)
    assert answer.status_code == (404 if "response_id" in path else 200)


def test_the_description_is_the_one_that_is_served(packaged: Server) -> None:
    served = requests.get(f"{packaged.root}/openapi.json", timeout=60).json()
    served["info"]["version"] = "0"
    assert served == json.loads(json.dumps(DOCUMENT))
