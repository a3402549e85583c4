"""How a model without any template is asked to chat: one line per message, its role before it.

    system: Be brief.
    user: Hello
    assistant:

Base models know dialogues of this look; the answer ends where the model would go on with the
user's next line.
"""

from __future__ import annotations

from collections.abc import Sequence

from mlc_llm.conversation_template.prompt import (
    DEFAULT_OPTIONS,
    Piece,
    RenderOptions,
    Turn,
)


class PlainTemplate:
    """For models that bring no template of their own."""

    stop_strs: tuple[str, ...] = ("\nuser:",)
    stop_token_ids: tuple[int, ...] = ()
    writes_tools = False
    writes_calls = False

    def __init__(self, bos_token_id: int | None) -> None:
        """`bos_token_id` begins the prompt, for models that are used to one."""
        self._prefix: list[Piece] = [] if bos_token_id is None else [bos_token_id]

    def render(
        self, turns: Sequence[Turn], options: RenderOptions = DEFAULT_OPTIONS
    ) -> list[Piece]:
        """The prompt; takes any roles in any order."""
        text = "".join(f"{turn.role}: {turn.content or ''}\n" for turn in turns)
        if options.continue_last:
            text = text.removesuffix("\n")
        elif options.begin_answer:
            text += "assistant:"
        return [*self._prefix, text]
