"""Which grammar a request asks for, in any of the ways in which clients say it.

    response_format       OpenAI's; with `schema` beside `type` as MLC LLM has it
    structured_outputs    vLLM's: one of json, json_object, regex, choice, grammar, structural_tag
    guided_json ...       vLLM's older names of the same
    grammar, json_schema  llama.cpp's names
    ebnf, regex           SGLang's names

At most one of them may constrain the answer.
"""

from __future__ import annotations

from typing import Any

import msgspec

from mlc_llm.errors import BadRequest
from mlc_llm.grammar.gbnf import is_gbnf
from mlc_llm.grammar.gbnf_lark import lark_of_gbnf
from mlc_llm.grammar.limits import MAX_LARK_BYTES, check_grammar
from mlc_llm.grammar.tags import tags_grammar
from mlc_llm.protocol.generation import Grammar
from mlc_llm.protocol.requests import GenerationFields, ResponseFormat, StructuredOutputs

ANY_OBJECT = '{"type":"object"}'

_REFUSED = ("whitespace_pattern", "disable_any_whitespace")


def grammar_of(request: GenerationFields) -> Grammar | None:
    """The grammar, checked for its size; None: any text will do. Raises BadRequest."""
    asked = [
        grammar
        for grammar in (
            _response_format(request.response_format),
            *_structured_outputs(request.structured_outputs),
            *_guided(request),
        )
        if grammar is not None
    ]
    if len(asked) > 1:
        raise BadRequest(
            f"`{asked[1].param}` may not be given together with `{asked[0].param}`: an answer can "
            "follow one grammar only.",
            param=asked[1].param,
        )
    if not asked:
        return None
    check_grammar(asked[0])
    return asked[0]


def _response_format(given: ResponseFormat | None) -> Grammar | None:
    if given is None or given.type == "text":
        return None
    if given.type == "json_object":
        if given.schema is None:
            return Grammar("json_schema", ANY_OBJECT, "response_format")
        return _schema(given.schema, "response_format.schema")
    if given.type == "json_schema":
        if given.json_schema is not None and given.json_schema.schema is not None:
            return _schema(given.json_schema.schema, "response_format.json_schema.schema")
        if given.schema is not None:
            return _schema(given.schema, "response_format.schema")
        param = "response_format.json_schema"
        raise BadRequest(f"`{param}` must have a `schema`.", param=param)
    if given.type == "structural_tag":
        return tags_grammar(_tags_of(given), "response_format")
    raise BadRequest(
        f'`response_format` cannot have the type "{given.type[:50]}"; use "text", "json_object", '
        '"json_schema" or "structural_tag".',
        param="response_format",
    )


def _tags_of(given: ResponseFormat) -> dict[str, Any]:
    if given.format is not None:
        return {"format": given.format}
    return {"structures": given.structures or [], "triggers": given.triggers or []}


def _structured_outputs(given: StructuredOutputs | None) -> list[Grammar | None]:
    if given is None:
        return []
    for name in _REFUSED:
        if getattr(given, name):
            param = f"structured_outputs.{name}"
            raise BadRequest(f"`{param}` is not supported by this version.", param=param)
    asked = [
        _schema(given.json, "structured_outputs.json"),
        Grammar("json_schema", ANY_OBJECT, "structured_outputs.json_object")
        if given.json_object
        else None,
        _text("regex", given.regex, "structured_outputs.regex"),
        _choice(given.choice, "structured_outputs.choice"),
        _notation(given.grammar, "structured_outputs.grammar"),
        tags_grammar(given.structural_tag, "structured_outputs.structural_tag"),
    ]
    if not any(asked):
        raise BadRequest(
            "`structured_outputs` must have one of json, json_object, regex, choice, grammar and "
            "structural_tag.",
            param="structured_outputs",
        )
    return asked


def _guided(request: GenerationFields) -> list[Grammar | None]:
    return [
        _schema(request.guided_json, "guided_json"),
        _text("regex", request.guided_regex, "guided_regex"),
        _choice(request.guided_choice, "guided_choice"),
        _notation(request.guided_grammar, "guided_grammar"),
        _notation(request.grammar or None, "grammar"),
        _notation(request.ebnf or None, "ebnf"),
        _text("regex", request.regex or None, "regex"),
        _schema(request.json_schema, "json_schema"),
    ]


def _schema(given: str | bool | dict[str, Any] | None, param: str) -> Grammar | None:
    """Clients send a schema as an object, or as a string that holds one."""
    if given is None:
        return None
    if isinstance(given, str):
        return Grammar("json_schema", given, param)
    try:
        text = msgspec.json.encode(given).decode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRequest(f"`{param}` is not a JSON schema: {error}.", param=param) from error
    return Grammar("json_schema", text, param)


def _text(kind: Any, given: str | None, param: str) -> Grammar | None:
    return None if given is None else Grammar(kind, given, param)


def _notation(given: str | None, param: str) -> Grammar | None:
    """A grammar in one of two notations, in that which is compiled."""
    if given is None or len(given) > MAX_LARK_BYTES or not is_gbnf(given):
        return _text("lark", given, param)  # which is refused where it is too long
    try:
        lark = lark_of_gbnf(given)
    except ValueError as error:
        raise BadRequest(f"`{param}` cannot be used: {error}.", param=param) from error
    if len(lark.encode()) > MAX_LARK_BYTES:
        raise BadRequest(f"`{param}` is too long; say it in fewer rules.", param=param)
    return Grammar("lark", lark, param)


def _choice(given: list[str] | None, param: str) -> Grammar | None:
    return None if given is None else Grammar("choice", msgspec.json.encode(given).decode(), param)
