"""Structural tags: free text in which whatever stands between certain marks obeys a JSON schema.

Two ways of saying it are read, both of vLLM: a list of structures with triggers, and the later
format called `triggered_tags`, as far as its tags hold JSON schemas. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from mlc_llm.errors import BadRequest
from mlc_llm.protocol.generation import Grammar

MAX_TAGS = 64
MAX_MARK_BYTES = 1024

Schema = dict[str, Any] | bool


class Tag(Struct, frozen=True, array_like=True):
    """After `begin` comes JSON that obeys `schema`, then `end`."""

    begin: str
    schema: Schema
    end: str


class Tags(Struct, frozen=True):
    """Text is free until a trigger is written, which must begin one of the tags."""

    triggers: list[str]
    tags: list[Tag]


class _Structure(Struct):
    begin: str
    schema: Schema | str
    end: str = ""


class _Structures(Struct):
    structures: list[_Structure]
    triggers: list[str]


class _Content(Struct):
    type: str
    json_schema: Schema | None = None


class _TaggedContent(Struct):
    begin: str
    content: _Content
    end: str = ""


class _TriggeredTags(Struct):
    type: str
    triggers: list[str] = []
    tags: list[_TaggedContent] = []
    at_least_one: bool = False
    stop_after_first: bool = False


class _Format(Struct):
    format: _TriggeredTags


def tags_grammar(given: Any, param: str) -> Grammar | None:
    """The grammar that a structural tag asks for; None for none. Raises BadRequest.

    `given`: an object, or a string that holds one.
    """
    if given is None:
        return None
    try:
        document = msgspec.json.decode(given) if isinstance(given, str) else given
        tags = _read(document, param)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadRequest(f"`{param}` is not a structural tag: {error}.", param=param) from error
    return Grammar("structural_tag", msgspec.json.encode(tags).decode(), param)


def tokens_of_marks(grammar: Grammar | None, special_tokens: Mapping[str, int]) -> tuple[int, ...]:
    """The special tokens that stand in triggers, beginnings and ends of a structural tag.

    Who asks for such a mark wants to find it in the text, where special tokens do not show.
    """
    if grammar is None or grammar.kind != "structural_tag":
        return ()
    tags = msgspec.json.decode(grammar.text, type=Tags)
    marks = {*tags.triggers, *(mark for tag in tags.tags for mark in (tag.begin, tag.end))}
    return tuple(i for name, i in special_tokens.items() if any(name in mark for mark in marks))


def check_tags(tags: Tags, param: str) -> None:
    """Raises BadRequest where marks cannot be told apart, or are too many or too long."""
    if not tags.tags or not tags.triggers:
        raise BadRequest(f"`{param}` must have structures and triggers.", param=param)
    if max(len(tags.tags), len(tags.triggers)) > MAX_TAGS:
        raise BadRequest(f"`{param}` must have at most {MAX_TAGS} structures.", param=param)
    marks = [*tags.triggers, *(mark for tag in tags.tags for mark in (tag.begin, tag.end))]
    if max(len(mark.encode()) for mark in marks) > MAX_MARK_BYTES:
        raise BadRequest(f"`{param}` has a mark of more than {MAX_MARK_BYTES} bytes.", param=param)
    if not all(tags.triggers):
        raise BadRequest(f"`{param}` has a trigger that is empty.", param=param)
    for tag in tags.tags:
        if not any(tag.begin.startswith(trigger) for trigger in tags.triggers):
            raise BadRequest(
                f"`{param}` has a structure that begins with {tag.begin[:50]!r}, which begins with "
                "none of the triggers.",
                param=param,
            )


def _read(document: Any, param: str) -> Tags:
    if isinstance(document, dict) and "format" in document:
        return _read_format(msgspec.convert(document, _Format).format, param)
    found = msgspec.convert(document, _Structures)
    tags = [
        Tag(
            one.begin,
            msgspec.json.decode(one.schema, type=Schema)
            if isinstance(one.schema, str)
            else one.schema,
            one.end,
        )
        for one in found.structures
    ]
    return Tags(found.triggers, tags)


def _read_format(given: _TriggeredTags, param: str) -> Tags:
    if given.type != "triggered_tags" or given.at_least_one or given.stop_after_first:
        raise BadRequest(
            f"`{param}` may only have a format of the type triggered_tags, without at_least_one "
            "and stop_after_first.",
            param=param,
        )
    tags = []
    for one in given.tags:
        if one.content.type != "json_schema" or one.content.json_schema is None:
            raise BadRequest(
                f"`{param}` may only have contents of the type json_schema, with a `json_schema`.",
                param=param,
            )
        tags.append(Tag(one.begin, one.content.json_schema, one.end))
    return Tags(given.triggers, tags)
