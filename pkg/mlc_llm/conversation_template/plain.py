"""How a model without any template is asked to chat: one line per message, its role before it.

    system: Be brief.
    user: Hello
    assistant:

Base models know dialogues of this look; the answer ends where the model would go on with the
user's next line.
"""

from __future__ import annotations

from collections.abc import Sequence

from mlc_llm.conversation_template.prompt import Piece, Turn


class PlainTemplate:
    """For models that bring no template of their own."""

    stop_strs: tuple[str, ...] = ("\nuser:",)
    stop_token_ids: tuple[int, ...] = ()

    def __init__(self, bos_token_id: int | None) -> None:
        """`bos_token_id` begins the prompt, for models that are used to one."""
        self._prefix: list[Piece] = [] if bos_token_id is None else [bos_token_id]

    def render(self, turns: Sequence[Turn]) -> list[Piece]:
        """The prompt; takes any roles in any order."""
        lines = [f"{turn.role}: {turn.content or ''}\n" for turn in turns]
        return [*self._prefix, "".join(lines) + "assistant:"]
