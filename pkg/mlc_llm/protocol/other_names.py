"""What llama.cpp's and SGLang's clients call fields that are here under another name.

They are obeyed, because an answer that quietly has no bound or follows no grammar is a wrong one.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from mlc_llm.protocol.service_fields import ServiceFields


def _name_of(field: str) -> Meta:
    return Meta(description=f"Another server's name of `{field}`, which wins.")


class OtherNames(ServiceFields, frozen=True, kw_only=True):
    """None: not given. A grammar or a schema beside another one is refused."""

    n_predict: Annotated[int | None, _name_of("max_tokens")] = None
    max_new_tokens: Annotated[int | None, _name_of("max_tokens")] = None
    repeat_penalty: Annotated[float | None, _name_of("repetition_penalty")] = None
    grammar: Annotated[str | None, Meta(description="`guided_grammar`; empty: none.")] = None
    ebnf: Annotated[str | None, Meta(description="`guided_grammar`; empty: none.")] = None
    regex: Annotated[str | None, Meta(description="`guided_regex`; empty: none.")] = None
    json_schema: Annotated[
        dict[str, Any] | str | bool | None, Meta(description="`guided_json`.")
    ] = None
    use_beam_search: Any = None
    """Refused unless false."""
