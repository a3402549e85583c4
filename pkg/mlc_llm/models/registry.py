"""Model families by `model_type`: where the code is that builds their `step`. Imported late.

Knows names only; asking for a family's builder is what loads the compiler.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from mlc_llm.errors import BadModel

BUILDERS = {
    "llama": "mlc_llm.models.decoder:build_step",
}
"""Functions of (architecture, scheme, level) that return a tvm.IRModule with `step` in it."""


def step_builder(model_type: str) -> Callable[..., Any]:
    """The builder of a family; raises `BadModel` that lists the known families."""
    try:
        module, _, name = BUILDERS[model_type].partition(":")
    except KeyError:
        known = ", ".join(BUILDERS)
        raise BadModel(
            f"models of type {model_type!r} cannot be served; known are {known}"
        ) from None
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found
