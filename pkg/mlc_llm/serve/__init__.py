"""The serving side: engines for Python, the client of the engine process, requests and answers.

Importing this package loads nothing else; its names come when they are asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlc_llm.serve.config import EngineConfig
    from mlc_llm.serve.engine import AsyncMLCEngine, MLCEngine
    from mlc_llm.serve.popen_server import PopenServer

__all__ = ["AsyncMLCEngine", "EngineConfig", "MLCEngine", "PopenServer"]

_HOMES = {
    "AsyncMLCEngine": "mlc_llm.serve.engine",
    "EngineConfig": "mlc_llm.serve.config",
    "MLCEngine": "mlc_llm.serve.engine",
    "PopenServer": "mlc_llm.serve.popen_server",
}


def __getattr__(name: str) -> Any:
    """The engine process takes `serve.sizing` from here and must stay free of event loops."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
