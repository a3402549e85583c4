"""What the documents show is copied: each of their programs for a server runs as it stands."""

from __future__ import annotations

import re

import pytest

from support.server import Server
from support.shared import REPOSITORY

ADDRESS = "http://127.0.0.1:8000/v1"
"""Where `mlc_llm serve` listens, with no word more, and where the documents look for it."""


def programs(document: str) -> list[str]:
    blocks = re.findall(r"```python\n(.*?)```", (REPOSITORY / document).read_text(), re.DOTALL)
    return [block for block in blocks if "OpenAI(" in block]


@pytest.mark.parametrize(
    ("document", "printed"),
    [
        ("README.md", r".+"),
        ("docs/tools.md", r"(?s).*"),
        ("docs/structured-output.md", r'\{"name": ".*", "age": \d+\}\n[0-9]{1,5}'),
    ],
)
def test_the_programs_of_a_document_run_as_they_stand(
    document: str, printed: str, packaged: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    (program,) = programs(document)
    assert ADDRESS in program
    exec(compile(program.replace(ADDRESS, packaged.base_url), document, "exec"), {})
    assert re.fullmatch(printed, capsys.readouterr().out.strip())
