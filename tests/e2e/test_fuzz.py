"""What the server says of itself in /openapi.json is true, whatever it is sent."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlc_api.openapi import document
from support.schema_values import values
from support.server import Server

jsonschema = pytest.importorskip("jsonschema", reason="checks answers against the description")

DOCUMENT = document(debug=True, with_key=False, version="0")
BODIES = [
    path for path, methods in DOCUMENT["paths"].items() if "requestBody" in methods.get("post", {})
]
SHORT = st.sampled_from([1, 2, 3])
NUM_EXAMPLES = 60


@cache
def validator(reference: str) -> Any:
    """Of one schema of the description."""
    schema = {"$ref": reference, "components": DOCUMENT["components"]}
    return jsonschema.Draft202012Validator(schema)


def check(media: dict[str, Any], value: Any) -> None:
    """Fail unless `value` is what a media type of the description holds."""
    schema = media.get("schema", {})
    options = schema.get("anyOf", [schema] if schema else [])
    problems = [[str(e) for e in validator(o["$ref"]).iter_errors(value)] for o in options]
    assert not problems or [] in problems, problems


def check_answer(operation: dict[str, Any], answer: requests.Response) -> None:
    kind = answer.headers["content-type"].partition(";")[0]
    if answer.status_code != 200:
        assert 400 <= answer.status_code < 500, answer.text
        check(operation["responses"]["default"]["content"]["application/json"], answer.json())
        return
    media = operation["responses"]["200"]["content"][kind]
    if kind == "application/json":
        check(media, answer.json())
    elif kind == "text/event-stream":
        for line in answer.text.splitlines():
            if line.startswith("data: ") and line != "data: [DONE]":
                check(media, json.loads(line.removeprefix("data: ")))


@st.composite
def bodies(draw: st.DrawFn, path: str) -> Any:
    """A request for this path whose answer is short, if there is one."""
    schema = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    body = draw(values(schema, DOCUMENT))
    if not isinstance(body, dict):
        return body
    body.pop("model", None)
    body.pop("previous_response_id", None)
    if "messages" in body and draw(st.integers(0, 3)):
        body["messages"] = [{"role": "user", "content": draw(st.text(min_size=1, max_size=9))}]
    for field in ("prompt", "input", "text_1", "text_2"):
        if field in body and draw(st.integers(0, 3)):
            body[field] = draw(st.text(min_size=1, max_size=9))
    for field in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        body[field] = draw(SHORT)
    for field in ("n", "best_of"):
        if isinstance(body.get(field), int) and body[field] > 3:
            body[field] = draw(SHORT)
    return body


@pytest.mark.parametrize("path", BODIES)
@settings(
    max_examples=NUM_EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_any_request_is_answered_as_the_description_says(
    packaged: Server, path: str, data: st.DataObject
) -> None:
    body = data.draw(bodies(path))
    answer = requests.post(f"{packaged.root}{path}", json=body, timeout=60)
    check_answer(DOCUMENT["paths"][path]["post"], answer)


@pytest.mark.parametrize("path", [p for p, m in DOCUMENT["paths"].items() if "get" in m])
def test_what_can_be_fetched_is_as_described(packaged: Server, path: str) -> None:
    operation = DOCUMENT["paths"][path]["get"]
    url = packaged.root + path.replace("{model_id}", "packaged").replace("{response_id}", "none")
    answer = requests.get(url, timeout=60)
    check_answer(operation, answer)
    assert answer.status_code == (404 if "response_id" in path else 200)


def test_the_description_is_the_one_that_is_served(packaged: Server) -> None:
    served = requests.get(f"{packaged.root}/openapi.json", timeout=60).json()
    served["info"]["version"] = "0"
    assert served == json.loads(json.dumps(DOCUMENT))
