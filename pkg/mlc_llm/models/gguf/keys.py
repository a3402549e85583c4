"""The metadata of a GGUF file, looked up by key and checked by type. Knows no model."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mlc_llm.errors import BadModel
from mlc_llm.models.gguf.file import GgufFile


class Keys:
    """The metadata of one file, by type."""

    def __init__(self, file: GgufFile) -> None:
        self.file = file
        name = file.values.get("general.architecture")
        if not isinstance(name, str):
            raise BadModel(f"{file.path}: general.architecture is missing")
        self.architecture = name

    def fault(self, key: str, message: str) -> BadModel:
        return BadModel(f"{self.file.path}: {key}: {message}")

    def get(self, key: str, kind: type[Any] | tuple[type[Any], ...]) -> Any:
        """The value of a key, None when there is none."""
        value = self.file.values.get(key)
        if value is not None and (not isinstance(value, kind) or _is_odd_bool(value, kind)):
            raise self.fault(key, f"is of type {type(value).__name__}")
        if isinstance(value, float) and not math.isfinite(value):
            raise self.fault(key, f"{value} is not finite")
        return value

    def integer(self, key: str) -> int | None:
        """A key of the architecture. Some files list a number for each layer: they must agree."""
        full = f"{self.architecture}.{key}"
        value = self.get(full, (int, np.ndarray))
        if isinstance(value, np.ndarray):
            if value.dtype.kind not in "iu":
                raise self.fault(full, f"is a list of {value.dtype}")
            numbers = set(value.tolist())
            if len(numbers) != 1:
                raise self.fault(full, "differs between layers, which is not supported")
            value = numbers.pop()
        return None if value is None else int(value)

    def need(self, key: str) -> int:
        """A key of the architecture that it cannot do without."""
        value = self.integer(key)
        if value is None:
            raise self.fault(f"{self.architecture}.{key}", "is missing")
        return value

    def flag(self, key: str) -> bool:
        """A key of the architecture; one that is not there is false."""
        return bool(self.get(f"{self.architecture}.{key}", bool))

    def has(self, tensor: str) -> bool:
        """Whether there is a tensor of this name."""
        return tensor in self.file.tensors

    def number(self, key: str) -> float | None:
        """A key of the architecture."""
        value = self.get(f"{self.architecture}.{key}", (int, float))
        return None if value is None else float(value)

    def factors(self, tensor: str) -> list[float] | None:
        """The numbers of a small float32 tensor."""
        found = self.file.tensors.get(tensor)
        if found is None:
            return None
        if found.kind.name != "F32" or len(found.shape) != 1 or found.shape[0] > 1024:
            raise self.fault(f"tensor {tensor}", "is not a list of at most 1024 float32 numbers")
        try:
            with found.path.open("rb") as file:
                file.seek(found.offset)
                values = np.frombuffer(file.read(4 * found.shape[0]), "<f4")
        except OSError as error:
            raise self.fault(f"tensor {tensor}", error.strerror or "cannot be read") from None
        if len(values) != found.shape[0] or not (np.isfinite(values) & (values > 0)).all():
            raise self.fault(f"tensor {tensor}", "holds a number that is no divisor")
        return [float(str(value)) for value in values]


def _is_odd_bool(value: Any, kind: type[Any] | tuple[type[Any], ...]) -> bool:
    return isinstance(value, bool) and kind is not bool
