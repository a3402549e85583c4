"""Tools said in plain messages."""

from __future__ import annotations

from mlc_llm.conversation_template.prompt import Turn, TurnCall
from mlc_llm.tools.fallback import fallback_prompt, plain_history
from mlc_llm.tools.formats import FALLBACK, open_reader
from support.tool_texts import TOOLS, calls_of, read

HISTORY = [
    Turn(role="user", content="Rome and Oslo?"),
    Turn(
        role="assistant",
        content=None,
        tool_calls=(
            TurnCall("get_weather", {"city": "Rome"}, "a"),
            TurnCall("get_weather", '{"city": "Zürich"}', "b"),
        ),
    ),
    Turn(role="tool", content="sunny", tool_call_id="a"),
    Turn(role="tool", content="rain", tool_call_id="b"),
    Turn(role="user", content="Thanks"),
]


def test_the_prompt_names_every_tool_and_shows_the_form_that_is_read():
    prompt = fallback_prompt(TOOLS)
    assert all(f'"name": "{tool.name}"' in prompt for tool in TOOLS)
    shown = prompt.replace("NAME", "now").replace("ARGUMENTS", "{}")
    assert calls_of(read(open_reader(TOOLS, FALLBACK), [shown])) == [("now", {})]


def test_tools_are_said_in_the_system_message_that_is_there_or_in_one_of_their_own():
    alone = plain_history(HISTORY, TOOLS)
    assert (alone[0].role, alone[0].content) == ("system", fallback_prompt(TOOLS))
    system = Turn(role="system", content="Be brief.")
    joined = plain_history([system, *HISTORY], TOOLS)
    assert joined[0].content == f"Be brief.\n\n{fallback_prompt(TOOLS)}"
    assert joined[1:] == alone[1:]


def test_calls_and_results_of_the_history_become_plain_messages_that_alternate():
    turns = plain_history(HISTORY, ())
    assert [turn.role for turn in turns] == ["user", "assistant", "user", "user"]
    assert not any(turn.tool_calls or turn.tool_call_id for turn in turns)
    read_back = calls_of(read(open_reader(TOOLS, FALLBACK), [turns[1].content or ""]))
    assert read_back == [("get_weather", {"city": "Rome"}), ("get_weather", {"city": "Zürich"})]
    assert turns[2].content == (
        "<tool_response>\nsunny\n</tool_response>\n<tool_response>\nrain\n</tool_response>"
    )
