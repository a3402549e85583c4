"""Calls of the Berkeley function-calling leaderboard, written and read back in every format."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlc_llm.tools.formats import TOOL_FORMATS, open_reader
from mlc_llm.tools.shape import write_calls
from mlc_llm.tools.tool import Tool
from support.shared import shared_path
from support.tool_texts import calls_of, read

FILE = "BFCL_v4_multiple.json"
NUM_CASES = 40


@pytest.fixture(scope="module")
def cases() -> list[tuple[list[Tool], list[tuple[str, Any]]]]:
    """The tools of each question and the calls that answer it, with the first of several values."""
    folder = shared_path("data/suites/bfcl")
    questions = (folder / FILE).read_text().splitlines()[:NUM_CASES]
    answers = (folder / "possible_answer" / FILE).read_text().splitlines()[:NUM_CASES]
    found = []
    for question, answer in zip(questions, answers, strict=True):
        functions = json.loads(question)["function"]
        tools = [Tool(each["name"], each["parameters"]) for each in functions]
        truth = json.loads(answer)["ground_truth"]
        calls = [
            (name, {key: values[0] for key, values in given.items() if values[0] != ""})
            for call in truth
            for name, given in call.items()
        ]
        found.append((tools, calls))
    return found


def python(calls: list[tuple[str, Any]]) -> str:
    written = [
        name + "(" + ", ".join(f"{key}={value!r}" for key, value in given.items()) + ")"
        for name, given in calls
    ]
    return "[" + ", ".join(written) + "]"


@pytest.mark.parametrize("form", TOOL_FORMATS.values(), ids=list(TOOL_FORMATS))
def test_calls_of_a_benchmark_are_read_back_in_every_format(form, cases):
    for tools, calls in cases:
        text = write_calls(form.shape, [(name, json.dumps(given)) for name, given in calls])
        parts = [text[i : i + 3] for i in range(0, len(text), 3)]
        assert calls_of(read(open_reader(tools, form), parts)) == calls


@pytest.mark.parametrize("name", ["pythonic", "gorilla"])
def test_calls_of_a_benchmark_are_read_as_python(name, cases):
    for tools, calls in cases:
        text = python(calls)
        parts = [text[i : i + 3] for i in range(0, len(text), 3)]
        assert calls_of(read(open_reader(tools, TOOL_FORMATS[name]), parts)) == calls
