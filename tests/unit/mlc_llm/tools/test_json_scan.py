"""Where JSON ends and what is none."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings

from mlc_llm.tools.json_scan import JsonScanner, is_json
from support.shared import shared_path
from support.tool_texts import VALUES


@settings(max_examples=50)
@given(value=VALUES)
def test_the_end_of_a_value_is_found_whatever_follows(value):
    for text in (json.dumps(value), json.dumps(value, indent=2, ensure_ascii=False)):
        scanner = JsonScanner()
        ends = [scanner.scan(char, 0) for char in text + " ]x"]
        assert scanner.done
        assert sum(ends) == len(text)


def test_the_parsing_suite_is_judged_as_its_names_say():
    folder = shared_path("data/suites/JSONTestSuite")
    files = sorted(folder.rglob("[yn]_*.json"))
    assert files
    for file in files:
        try:
            text = file.read_bytes().decode()
        except UnicodeDecodeError:
            continue  # only text is ever scanned
        if text.count("[") < 50:
            assert is_json(text) == file.name.startswith("y_"), file.name


@pytest.mark.parametrize(
    "text",
    ["", " ", "{", "[1,]", '{"a":1,}', "{a:1}", "01", "1.", ".5", "+1", "-", "1e", "tru", "nulll",
     '"\t"', '"\\x41"', '"\\u12"', "'a'", "NaN", "[1 2]", '{"a" 1}', "[}", "1 2"],
)  # fmt: skip
def test_what_is_no_json_is_known(text):
    assert not is_json(text)
