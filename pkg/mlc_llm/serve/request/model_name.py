"""Which names a model answers to."""

from __future__ import annotations

from pathlib import PurePosixPath

from mlc_llm.errors import ModelNotFound


def check_model_name(asked: str | None, served: str) -> None:
    """Accept the served name, its last part, or no name at all. Raises ModelNotFound."""
    if not asked or asked.rstrip("/") in (served.rstrip("/"), PurePosixPath(served).name):
        return
    reason = f"The model `{asked[:200]}` is not served here; the model here is `{served}`."
    raise ModelNotFound(reason, param="model")
