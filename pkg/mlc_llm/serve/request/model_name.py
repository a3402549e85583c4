"""Which names a model answers to."""

from __future__ import annotations

from pathlib import PurePosixPath

from mlc_llm.errors import ModelNotFound


def check_model_name(asked: str | None, served: str) -> None:
    """Accept the served name, its last part (of a GGUF file with the suffix and without), or no
    name at all. Raises ModelNotFound."""
    last = PurePosixPath(served).name
    names = (served.rstrip("/"), last, last.removesuffix(".gguf"))
    if not asked or asked.rstrip("/") in names:
        return
    reason = f"The model `{asked[:200]}` is not served here; the model here is `{served}`."
    raise ModelNotFound(reason, param="model")
