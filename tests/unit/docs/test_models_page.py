"""docs/models.md names exactly what there is."""

from __future__ import annotations

import re

from mlc_llm.models.registry import FAMILIES, family
from mlc_llm.quantization.scheme import SCHEMES
from support import gguf_families
from support.family_configs import CONFIGS, ENCODERS
from support.shared import REPOSITORY

PAGE = (REPOSITORY / "docs/models.md").read_text()


def first_cells() -> list[str]:
    return re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)


def test_every_family_and_every_quantization_has_a_row_and_nothing_else_has() -> None:
    assert sorted(first_cells()) == sorted([*FAMILIES, *SCHEMES])


def test_every_recorded_configuration_is_named_in_the_row_of_its_type() -> None:
    rows = {row.split("`")[1]: row for row in PAGE.splitlines() if row.startswith("| `")}
    for name, config in {**CONFIGS, **ENCODERS}.items():
        assert f"`{name}`" in rows[config["model_type"]].rsplit("|", 2)[1]


def proofs(model_type: str) -> list[str]:
    """The tests that have cases for a family, by the columns of the table."""
    names = {
        name
        for name, config in {**CONFIGS, **ENCODERS}.items()
        if config["model_type"] == model_type
    }
    packs = not family(model_type).huggingface.transposed
    return [
        "test_encoders" if names & set(ENCODERS) else "test_families",
        "test_every_format",
        "test_every_format" if packs else "no",
        "test_convert",
        "test_gguf_families" if names & set(gguf_families.recorded()) else "no",
    ]


def test_every_family_says_which_test_proves_each_format() -> None:
    table = PAGE.partition("| family | safetensors")[2].split("\n\n")[0]
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()[2:]]
    assert {row[0]: row[1:] for row in rows} == {name: proofs(name) for name in FAMILIES}
