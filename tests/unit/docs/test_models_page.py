"""docs/models.md names exactly what there is."""

from __future__ import annotations

import re

from mlc_llm.models.registry import FAMILIES
from mlc_llm.quantization.scheme import SCHEMES
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
