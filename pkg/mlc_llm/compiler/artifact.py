"""A compiled model as one file: a shared library that says what it is and can prove it is whole.

    | shared library ... | MAGIC (8) | SHA-256 of the library (32) |

The loader ignores what follows a library, so the seal costs nothing; a file cut short by a full
disk or a crash is found by its seal before it is mapped as code. Knows no compiler.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from mlc_llm.compiler.abi import MAX_ROWS, PAGE_SIZE, TILE_ROWS
from mlc_llm.errors import BadModel
from mlc_llm.models.architecture import Architecture
from mlc_llm.models.parameters import TensorSpec, tensor_specs
from mlc_llm.quantization.scheme import KvDtype, Scheme, scheme_by_name

MAGIC = b"MLCSEAL1"
METADATA = "_metadata"
"""Function of a library that returns its `Metadata` as JSON."""


class LibrarySpec(Struct, frozen=True, forbid_unknown_fields=True):
    """What a library is compiled from, apart from the code of this package."""

    architecture: Architecture
    quantization: str
    level: str
    """Value of a `kernels.cpu.level.Level`."""
    kv_dtype: KvDtype | None = None
    """What K and V are rounded to; None: what the quantization does."""

    @property
    def scheme(self) -> Scheme:
        """Raises `BadConfig` for a quantization that is not known."""
        return scheme_by_name(self.quantization, self.kv_dtype)


class Metadata(Struct, frozen=True):
    """What a library says about itself."""

    model_type: str
    quantization: str
    kv_cache_dtype: KvDtype
    level: str
    architecture: Architecture
    """Without what `step` does not depend on, see `essential`."""
    params: tuple[TensorSpec, ...]
    max_rows: int
    page_size: int
    tile_rows: int
    versions: Mapping[str, str]


def metadata_of(spec: LibrarySpec) -> Metadata:
    """The metadata of the library that this package makes of `spec` now."""
    scheme = spec.scheme
    return Metadata(
        model_type=spec.architecture.model_type,
        quantization=spec.quantization,
        kv_cache_dtype=scheme.kv_dtype,
        level=spec.level,
        architecture=essential(spec.architecture),
        params=tensor_specs(spec.architecture, scheme),
        max_rows=MAX_ROWS,
        page_size=PAGE_SIZE,
        tile_rows=TILE_ROWS,
        versions={
            "tvm": version("apache-tvm"),
            "kernels": code_digest(),
            "machine": platform.machine(),  # two of them may share a level and a home
        },
    )


def essential(arch: Architecture) -> Architecture:
    """The architecture without what `step` gets as an argument: the values of the rotary table.

    So models that differ in their rotation or their context window alone share a library.
    """
    return replace(
        arch,
        rope_theta=0.0,
        rope_scaling=None,
        sliding_rope_theta=None if arch.sliding_rope_theta is None else 0.0,
        context_window_size=arch.context_window_size if arch.learned_positions else 0,
    )


def check_metadata(found: str, wanted: LibrarySpec, name: str) -> None:
    """Raise `BadModel` unless `found`, what library `name` says of itself, is what we want."""
    try:
        metadata = msgspec.json.decode(found, type=Metadata)
    except msgspec.MsgspecError:
        raise BadModel(f"{name} was compiled by another program; compile it again") from None
    expected = metadata_of(wanted)
    for field in Metadata.__struct_fields__:
        if getattr(metadata, field) != getattr(expected, field):
            raise BadModel(
                f"{name} was compiled for another {field.replace('_', ' ')}; "
                "compile it again or leave --model-lib out"
            )


def code_digest() -> str:
    """Digest of the code that decides what a library computes."""
    package = Path(__file__).parent.parent
    found = hashlib.sha256()
    for folder in ("compiler", "kernels/cpu", "models", "quantization"):
        for path in sorted((package / folder).glob("*.py")):
            found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:32]


def seal(path: Path) -> None:
    """Append the seal to a library."""
    digest = hashlib.sha256(path.read_bytes()).digest()
    with path.open("ab") as file:
        file.write(MAGIC + digest)


def is_intact(path: Path) -> bool:
    """Whether `path` is a sealed library, every byte as it was written."""
    try:
        content = path.read_bytes()
    except OSError:
        return False
    body, tail = content[: -len(MAGIC) - 32], content[-len(MAGIC) - 32 :]
    return tail == MAGIC + hashlib.sha256(body).digest()
