"""Weights that were quantized while they were loaded, kept in the kernels' layout.

    $MLC_LLM_HOME/packed_weights/<key>.packed   the tensors one after the other, then checksums
    $MLC_LLM_HOME/packed_weights/lock           held by the one process that writes or removes

The key is a digest of what the bytes depend on: the source files (path, size, time of change), the
architecture, the scheme and the code that packs; the CPU level is not among it, since every level
reads one layout. A file appears whole or not at all, a damaged one is made again, and whatever goes
wrong with the cache costs time and never the start.

What is kept is read into anonymous memory and not mapped: decoding is as fast as from a mapping at
its best, huge pages do not depend on the file system, and a damaged disk is an error at the start
and not a bus fault later (`docs/decisions/0004-packed-weights-are-read.md`).
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import os
import shutil
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlc_llm.models.folder import ModelFolder
from mlc_llm.models.parameters import TensorSpec, tensor_specs
from mlc_llm.quantization.scheme import Scheme, with_kv
from mlc_llm.quantization.search import Search
from mlc_llm.weights.load import Progress, available_cores, load_weights
from mlc_llm.weights.memory import side_by_side
from mlc_llm.weights.sources.find import find_tensors

AnyArray = NDArray[Any]

WORTHWHILE = 64 << 20
"""Bytes of packed weights from which they are kept; less is quantized in a moment."""

MAX_BYTES = 32 << 30
"""What the cache keeps, the files used last; larger models are quantized at every start."""

SUFFIX = ".packed"
_PIECE = 4 << 20
"""Bytes that are read and checked at a time, while they are in a core's cache."""


class Loaded(NamedTuple):
    """Packed weights as `load_weights` gives them, and where they are from, for the log."""

    weights: list[AnyArray]
    origin: str


def load_cached(
    folder: ModelFolder,
    scheme: Scheme,
    progress: Progress | None,
    cache: Path,
    search: Search | None = None,
) -> Loaded:
    """`load_weights`, with what it quantizes kept in the folder `cache` for the next time.

    Raises what `load_weights` raises; the cache itself never fails.
    """
    specs = tensor_specs(folder.architecture, scheme)
    size = sum(map(_nbytes, specs))
    stored = folder.format != "huggingface" or scheme.weights in ("f32", "f16")
    if stored or not WORTHWHILE <= size <= MAX_BYTES:
        return Loaded(load_weights(folder, scheme, progress, search=search), "as they are stored")
    key = cache_key(folder, scheme)
    path = cache / f"{key}{SUFFIX}"
    kept = read(path, specs)
    if kept is not None:
        if progress is not None:
            progress(size, size)
        return Loaded(kept, f"quantized earlier and kept as {path}")
    weights = load_weights(folder, scheme, progress, search=search)
    problem = keep(path, weights)
    return Loaded(weights, f"kept as {path}" if problem is None else f"not kept: {problem}")


def cache_key(folder: ModelFolder, scheme: Scheme) -> str:
    """Digest of all that the packed weights of a Hugging Face folder depend on."""
    files = sorted({tensor.path for tensor in find_tensors(folder.path).values()})
    found = hashlib.sha256(_code_digest())
    for path in files:
        state = path.stat()
        found.update(f"{path.resolve()}\0{state.st_size}\0{state.st_mtime_ns}\0".encode())
    found.update(
        msgspec.json.encode((folder.architecture, with_kv(scheme, "float32")), order="sorted")
    )
    return found.hexdigest()[:32]


def read(path: Path, specs: Sequence[TensorSpec]) -> list[AnyArray] | None:
    """The tensors that `keep` wrote there; None when there are none, or not these, or damaged."""
    try:
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            pieces = sum(-(-_nbytes(spec) // _PIECE) for spec in specs)
            if size != sum(map(_nbytes, specs)) + 4 * pieces:
                return None
            weights = side_by_side((spec.shape, spec.dtype) for spec in specs)
            checks = os.pread(file.fileno(), 4 * pieces, size - 4 * pieces)
            read_piece = partial(_read_piece, file.fileno(), _seed(path))
            with ThreadPoolExecutor(available_cores(), thread_name_prefix="weights") as pool:
                found = pool.map(read_piece, *zip(*_pieces(weights), strict=True))
                if np.array(list(found), "<u4").tobytes() != checks:
                    return None
        os.utime(path)  # when it was last used: what `_make_room` goes by
    except OSError:
        return None
    return weights


def keep(path: Path, weights: Sequence[AnyArray]) -> str | None:
    """Write the tensors to `path`, removing what was used longest ago; or say why not."""
    size = sum(array.nbytes for array in weights)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path.parent / "lock") as is_ours:
            if not is_ours:
                return "another process is writing to the cache"
            _make_room(path, size)
            if shutil.disk_usage(path.parent).free < 2 * size:
                return f"less than {2 * size >> 20} MiB are free in {path.parent}"
            _write(path, weights)
    except OSError as failure:
        return f"{path.parent} cannot be written ({failure.strerror})"
    return None


def _write(path: Path, weights: Sequence[AnyArray]) -> None:
    part = path.with_suffix(".part")
    checks = []
    try:
        with part.open("wb", buffering=0) as file:
            for _, piece in _pieces(weights):
                checks.append(zlib.crc32(piece, _seed(path)))
                _write_all(file.fileno(), piece)
            _write_all(file.fileno(), memoryview(np.array(checks, "<u4").tobytes()))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _make_room(path: Path, size: int) -> None:
    """Remove what a writer left that was killed, and files until `size` more bytes are allowed."""
    for leftover in path.parent.glob("*.part"):
        leftover.unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    files = [(file.stat(), file) for file in path.parent.glob(f"*{SUFFIX}")]
    files.sort(key=lambda entry: entry[0].st_mtime_ns)
    total = size + sum(state.st_size for state, _ in files)
    for state, file in files:
        if total <= MAX_BYTES:
            return
        file.unlink(missing_ok=True)
        total -= state.st_size


@contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """Whether the lock is ours inside; a holder that is killed lets go."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _pieces(weights: Sequence[AnyArray]) -> Iterator[tuple[int, memoryview]]:
    """Where each piece lies in the file, and its bytes in memory."""
    start = 0
    for array in weights:
        data = array.reshape(-1).view(np.uint8).data
        for at in range(0, len(data), _PIECE):
            yield start + at, data[at : at + _PIECE]
        start += len(data)


def _read_piece(descriptor: int, seed: int, offset: int, piece: memoryview) -> int:
    """Fill a piece from the file; its checksum."""
    at = 0
    while at < len(piece):
        count = os.preadv(descriptor, [piece[at:]], offset + at)
        if count == 0:
            raise OSError("the file ended while it was read")
        at += count
    return zlib.crc32(piece, seed)


def _seed(path: Path) -> int:
    """What checksums start from: a file under another's name is not taken for it."""
    return zlib.crc32(path.stem.encode())


def _nbytes(spec: TensorSpec) -> int:
    return math.prod(spec.shape) * np.dtype(spec.dtype).itemsize


def _code_digest() -> bytes:
    """Of the code that decides what the packed bytes are."""
    package = Path(__file__).parent.parent
    found = hashlib.sha256()
    for folder in ("models", "quantization", "weights"):
        for path in sorted((package / folder).rglob("*.py")):
            found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.digest()
