"""MLC LLM serve: large language models behind OpenAI's API, on Apache TVM.

    from mlc_llm import MLCEngine

Importing this package loads nothing else; the engines come when they are asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlc_llm.serve.config import EngineConfig
    from mlc_llm.serve.engine import AsyncMLCEngine, MLCEngine

__all__ = ["AsyncMLCEngine", "EngineConfig", "MLCEngine", "__version__"]

__version__ = "0.1.0"

_HOMES = {
    "AsyncMLCEngine": "mlc_llm.serve.engine",
    "EngineConfig": "mlc_llm.serve.config",
    "MLCEngine": "mlc_llm.serve.engine",
}


def __getattr__(name: str) -> Any:
    """The engine process and the command line import this package but no engine class."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """What may be asked for, for those who look before it is there."""
    return list(__all__)
