"""Answers that obey a schema, an expression or a grammar, as OpenAI's client asks for them."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from typing import Any, Literal

import openai
import pytest
import requests
from jsonschema import Draft202012Validator
from pydantic import BaseModel, Field

from support.server import Server

ASK = [{"role": "user", "content": "Give me a JSON object."}]
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "color": {"enum": ["red", "grün", "青"]},
        "pets": {
            "type": "array",
            "items": {"$ref": "#/$defs/pet"},
            "maxItems": 2,
        },
    },
    "required": ["name", "age", "color", "pets"],
    "additionalProperties": False,
    "$defs": {
        "pet": {
            "type": "object",
            "properties": {"kind": {"enum": ["cat", "dog"]}, "weight": {"type": "number"}},
            "required": ["kind"],
            "additionalProperties": False,
        }
    },
}
FORMAT: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {"name": "person", "schema": PERSON, "strict": True},
}


class Pet(BaseModel):
    kind: Literal["cat", "dog"]
    age: int = Field(ge=0, le=30)


class Owner(BaseModel):
    name: str = Field(max_length=10)
    pet: Pet | None


@pytest.fixture
def client(packaged: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=packaged.base_url, api_key="none", max_retries=0)


@pytest.fixture
def model(client: openai.OpenAI) -> str:
    return client.models.list().data[0].id


def test_every_choice_obeys_the_schema_however_it_is_sampled(client, model) -> None:
    complete = 0
    for temperature in (0.0, 0.7, 2.0):
        answer = client.chat.completions.create(
            model=model, messages=ASK, response_format=FORMAT, n=4, seed=3,
            temperature=temperature, max_tokens=300,
        )  # fmt: skip
        for choice in answer.choices:
            if choice.finish_reason == "stop":
                complete += 1
                Draft202012Validator(PERSON).validate(json.loads(choice.message.content))
    assert complete >= 6


def test_a_class_is_parsed_back(client, model) -> None:
    answer = client.beta.chat.completions.parse(
        model=model, messages=ASK, response_format=Owner, temperature=0, max_tokens=200
    )
    assert isinstance(answer.choices[0].message.parsed, Owner)


def test_a_stream_is_the_whole_answer_in_pieces(client, model) -> None:
    asked: dict[str, Any] = {
        "model": model, "messages": ASK, "response_format": FORMAT, "seed": 9, "max_tokens": 300,
        "logprobs": True,
    }  # fmt: skip
    whole = client.chat.completions.create(**asked).choices[0]
    chunks = [c.choices[0] for c in client.chat.completions.create(**asked, stream=True)]
    assert "".join(c.delta.content or "" for c in chunks) == whole.message.content
    assert chunks[-1].finish_reason == whole.finish_reason


def test_the_streaming_helper_sees_the_object_grow(client, model) -> None:
    with client.beta.chat.completions.stream(
        model=model, messages=ASK, response_format=Owner, temperature=0, max_tokens=200
    ) as stream:
        for _ in stream:
            pass
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Owner)


def test_an_answer_is_the_same_whether_its_forced_tokens_are_sampled_or_not(client, model) -> None:
    keys = [f"a long name of property {i}" for i in range(4)]
    schema = {
        "type": "object",
        "properties": {key: {"type": "integer", "minimum": 0, "maximum": 9999} for key in keys},
        "required": keys,
        "additionalProperties": False,
    }

    def say(**fields: Any) -> Any:
        answer = client.chat.completions.create(
            model=model, messages=ASK, n=3, seed=11, temperature=1.2, max_tokens=300,
            extra_body={"guided_json": schema}, frequency_penalty=0.5, **fields,
        )  # fmt: skip
        said = [(choice.message.content, choice.finish_reason) for choice in answer.choices]
        return said, answer.usage.completion_tokens

    assert say() == say(logprobs=True)
    assert say(stop=["property 2"]) == say(stop=["property 2"], logprobs=True)


def test_json_mode_gives_an_object(client, model) -> None:
    answer = client.chat.completions.create(
        model=model, messages=ASK, response_format={"type": "json_object"}, max_tokens=300
    )
    assert answer.choices[0].finish_reason == "stop"
    assert isinstance(json.loads(answer.choices[0].message.content), dict)


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"guided_regex": r"[a-z]{3}-[0-9]{4}"}, r"[a-z]{3}-[0-9]{4}"),
        ({"structured_outputs": {"regex": "(yes|no)[.!]"}}, "(yes|no)[.!]"),
        ({"guided_choice": ["red", "green (light)"]}, r"red|green \(light\)"),
        ({"structured_outputs": {"choice": [" a", " b"]}}, " [ab]"),
        ({"guided_grammar": 'start: "<" /[a-z]{2}/ ">"'}, "<[a-z]{2}>"),
        ({"guided_json": '{"type": "boolean"}'}, "true|false"),
        ({"response_format": {"type": "json_object", "schema": '{"const": 7}'}}, "7"),
    ],
    ids=str,
)
def test_completions_and_chats_follow_expressions_choices_and_grammars(
    client, model, fields, pattern
) -> None:
    text = client.completions.create(model=model, prompt="Hello", max_tokens=60, extra_body=fields)
    chat = client.chat.completions.create(
        model=model, messages=ASK, max_tokens=60, extra_body=fields
    )
    assert re.fullmatch(pattern, text.choices[0].text)
    assert re.fullmatch(pattern, chat.choices[0].message.content)
    assert {text.choices[0].finish_reason, chat.choices[0].finish_reason} == {"stop"}


TAGGED = {
    "structures": [{"begin": "<f>", "schema": {"enum": ["a", 7]}, "end": "</f>"}],
    "triggers": ["<f"],
}


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "structural_tag", **TAGGED}},
        {"structured_outputs": {"structural_tag": json.dumps(TAGGED)}},
    ],
    ids=["response_format", "structured_outputs"],
)
def test_text_around_tags_is_free_and_what_is_inside_obeys(client, model, fields) -> None:
    bias = {str(token): 20 for token in _ids_of(client, model, "<f")}
    tags = 0
    for stream in (False, True):
        answer = client.chat.completions.create(
            model=model, messages=ASK, max_tokens=120, temperature=1.5, seed=4, stream=stream,
            logit_bias=bias, extra_body=fields,
        )  # fmt: skip
        text = (
            "".join(chunk.choices[0].delta.content or "" for chunk in answer)
            if stream
            else answer.choices[0].message.content
        )
        found = re.findall(r"<f(.*?)</f>", text, re.DOTALL)
        tags += len(found)
        assert all(re.fullmatch(r'>[ \n\r\t]*("a"|7)', one) for one in found), text
    assert tags > 0


def _ids_of(client: openai.OpenAI, model: str, text: str) -> list[int]:
    url = str(client.base_url).removesuffix("v1/") + "tokenize"
    answer = requests.post(url, json={"prompt": text, "add_special_tokens": False}, timeout=30)
    tokens: list[int] = answer.json()["tokens"]
    return tokens


EVERY_WAY: list[tuple[dict[str, Any], str]] = [
    ({"response_format": FORMAT}, ""),
    ({"response_format": {"type": "json_object", "schema": PERSON}}, ""),
    ({"structured_outputs": {"json": PERSON}}, ""),
    ({"guided_json": PERSON}, ""),
    ({"structured_outputs": {"regex": "[a-f]{2}-[0-9]{2}"}}, "[a-f]{2}-[0-9]{2}"),
    ({"guided_choice": ["left", "right"]}, "left|right"),
    ({"structured_outputs": {"grammar": 'start: ("x" | "y")~3'}}, "[xy]{3}"),
    ({"grammar": 'root ::= "x" root "y" | "-"'}, "x*-y*"),
]


@pytest.mark.parametrize(("fields", "pattern"), EVERY_WAY, ids=str)
def test_every_way_of_asking_goes_with_everything_else(client, model, fields, pattern) -> None:
    def check(text: str, reason: str) -> None:
        if reason == "stop" and pattern:
            assert re.fullmatch(pattern, text)
        elif reason == "stop":
            Draft202012Validator(PERSON).validate(json.loads(text))

    asked: dict[str, Any] = {
        "model": model, "n": 2, "seed": 5, "max_tokens": 300, "temperature": 0.8,
        "stop": ["\0"], "extra_body": fields,
    }  # fmt: skip
    chat = client.chat.completions.create(messages=ASK, logprobs=True, top_logprobs=2, **asked)
    text = client.completions.create(prompt="Hello", logprobs=2, **asked)
    for choice in chat.choices:
        check(choice.message.content, choice.finish_reason)
        said = b"".join(bytes(token.bytes) for token in choice.logprobs.content)
        assert said.decode() == choice.message.content
    for choice in text.choices:
        check(choice.text, choice.finish_reason)
    pieces = ["", ""]
    for chunk in client.chat.completions.create(messages=ASK, stream=True, **asked):
        for part in chunk.choices:
            pieces[part.index] += part.delta.content or ""
    assert pieces == [choice.message.content for choice in chat.choices]


def test_log_probabilities_are_of_the_free_distribution(client, model) -> None:
    def first(**fields: Any):
        answer = client.completions.create(
            model=model, prompt="Hello", max_tokens=1, temperature=0, logprobs=3, extra_body=fields
        )
        return answer.choices[0].logprobs.top_logprobs[0]

    free = first()  # and the token that was taken, when it is none of the best
    assert free.items() <= first(guided_regex="zebra").items()


def test_stop_strings_and_least_lengths_still_count(client, model) -> None:
    def say(**fields: Any):
        answer = client.completions.create(
            model=model, prompt="x", max_tokens=40, temperature=0, **fields
        )
        return answer.choices[0].text

    assert say(stop=["c"], extra_body={"guided_regex": "abcd"}) == "ab"
    assert say(extra_body={"guided_regex": "ab", "min_tokens": 30}) == "ab"
    assert len(say(extra_body={"guided_regex": "a+", "min_tokens": 20})) >= 20


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


def _links(length: int, twice: str = "") -> dict[str, Any]:
    """A chain of references, each to the next, once or twice."""
    ends = [{"$ref": f"#/$defs/{i + 1}"} for i in range(length)]
    links = [{twice: [end, end]} if twice else end for end in ends]
    return {**{str(i): link for i, link in enumerate(links)}, str(length): {"type": "string"}}


_DOUBLING = [f"r{i}: r{i + 1} r{i + 1}" for i in range(40)]

HOSTILE: list[dict[str, Any]] = [
    {"guided_json": {}},
    {"guided_json": ""},
    {"structured_outputs": {"json": ""}},
    {"structured_outputs": {"json_object": False}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
    {"guided_json": {"$ref": "#"}},
    {"guided_json": {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}},
    {"guided_json": {"$ref": "http://127.0.0.1:1/x.json"}},
    {"guided_json": {"$ref": "file:///etc/passwd"}},
    {"guided_json": {"enum": [f"value {i}" for i in range(100_000)]}},
    {"guided_json": nested(10)},
    {"guided_json": nested(200)},
    {"guided_json": '{"items":' * 10_000 + "{}" + "}" * 10_000},
    {"guided_json": {"multipleOf": 1_000_003}},
    {"guided_json": {"type": "string", "pattern": "^(a+)+b$"}},
    {"guided_json": {"type": "string", "minLength": 10**9}},
    {"guided_regex": "(a+)+b"},
    {"guided_regex": "a{1,1000000}"},
    {"guided_regex": "((a{1,100}){1,100}){1,100}"},
    {"guided_regex": "(?=a)b"},
    {"guided_regex": "(" * 2000 + "a" + ")" * 2000},
    {"guided_regex": ".*" * 500 + "x"},
    {"guided_grammar": 'start: start "a" | "a"'},
    {"guided_grammar": "start: start"},
    {"guided_grammar": "\n".join(["start: r0", *(f"r{i}: r{i + 1} r{i + 1}" for i in range(40))])},
    {"guided_grammar": "start: ("},
    {"guided_choice": []},
    {"guided_choice": ["x" * 10_000] * 3},
    {"guided_grammar": "\n".join([*("start: r0", 'r40: "a"'), *_DOUBLING])},
    {"guided_grammar": 'start: start start start | "a" |'},
    {"guided_grammar": 'start: ("a" | "b" "c"){1,100000}'},
    {"guided_regex": r"(\p{L}{1,100}\d{1,100}\w{50,90})*"},
    {"guided_regex": "(.*[a-m].{20}[n-z].{20})*"},
    {"guided_regex": "(a|b)*a(a|b){30}"},
    {"guided_json": {"type": "object", "properties": {f"p{i}": {} for i in range(3000)}}},
    {"guided_json": {"allOf": [{"multipleOf": k} for k in (997, 991, 983, 977)]}},
    {"guided_json": {"allOf": [{"anyOf": [{"maximum": i}, {"minimum": i}]} for i in range(40)]}},
    {"guided_json": {"const": "x" * 16_000}},
    {"guided_json": {"$ref": "#/$defs/0", "$defs": _links(3900)}},
    {"guided_json": {"$ref": "#/$defs/0", "$defs": _links(30, "allOf")}},
    {"response_format": {"type": "structural_tag", "structures": [], "triggers": []}},
    {"structured_outputs": {"structural_tag": "[" * 100_000}},
    {
        "response_format": {
            "type": "structural_tag",
            "structures": [{"begin": f"<{i}", "schema": nested(40)} for i in range(64)],
            "triggers": ["<"],
        }
    },
]


def post(server: Server, fields: dict[str, Any], **more: Any) -> requests.Response:
    body = {"prompt": "x", "max_tokens": 100, "temperature": 1, "seed": 1, **fields, **more}
    return requests.post(f"{server.base_url}/completions", json=body, timeout=60)


def test_hostile_grammars_are_refused_or_followed_and_nobody_else_notices(
    packaged: Server,
) -> None:
    body = {"prompt": "Once", "temperature": 0, "max_tokens": 300, "ignore_eos": True}
    url = f"{packaged.base_url}/completions"
    alone = requests.post(url, json=body, timeout=60).json()["choices"][0]["text"]
    others: list[str] = []

    def read() -> None:
        for _ in range(3):
            others.append(requests.post(url, json=body, timeout=60).json()["choices"][0]["text"])

    reader = threading.Thread(target=read)
    reader.start()
    for fields in HOSTILE:
        answer = post(packaged, fields)
        assert answer.status_code in (200, 400), (fields, answer.text)
        if answer.status_code == 400:
            error = answer.json()["error"]
            assert error["type"] == "invalid_request_error"
            assert error["param"].split(".")[0] == next(iter(fields))
    reader.join()
    assert others == [alone] * 3


def test_a_stream_with_a_bad_grammar_is_a_plain_400(packaged: Server) -> None:
    answer = post(packaged, {"guided_regex": "(("}, stream=True)
    assert answer.status_code == 400
    assert answer.headers["content-type"].startswith("application/json")


def test_valid_and_invalid_grammars_take_turns(packaged: Server) -> None:
    for number in range(5):
        assert post(packaged, {"guided_regex": f"a{number}"}).json()["choices"][0]["text"] == (
            f"a{number}"
        )
        assert post(packaged, {"guided_regex": f"(({number}"}).status_code == 400
        assert post(packaged, {"guided_grammar": f"start: nothing{number}"}).status_code == 400


def test_requests_that_are_given_up_while_their_grammar_is_made_leave_nothing_behind(
    packaged: Server,
) -> None:
    for number in range(20):
        values = [f"{number} {i}" for i in range(5000)]
        data = json.dumps({"prompt": "x", "guided_json": {"enum": values}}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", packaged.port), timeout=30) as connection:
            connection.sendall(head.encode() + data)
    assert post(packaged, {"guided_regex": "ab"}).json()["choices"][0]["text"] == "ab"
    deadline = time.monotonic() + 30
    while packaged.stats()["vllm:num_requests_waiting"] and time.monotonic() < deadline:
        threading.Event().wait(0.02)
    assert packaged.stats()["vllm:num_requests_waiting"] == 0
