"""Write the weights of a model as an MLC folder: read, quantize and write in pieces, on every core.

Every tensor's place is known before the first is read (`shards`), so pieces are written where they
belong as they are ready and no more than one for each thread is in memory. Files appear in a
scratch folder in the target and are moved when all are whole: nothing half-written is left behind,
and what a killed conversion left goes with the next one.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from functools import partial
from io import FileIO
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from mlc_llm.errors import BadConfig
from mlc_llm.models.folder import MANIFEST_NAMES, ModelFolder
from mlc_llm.models.layout import Layout
from mlc_llm.models.registry import family
from mlc_llm.quantization.scheme import SCHEMES, WeightFormat
from mlc_llm.quantization.storage import Storage
from mlc_llm.weights.binding import Binding, StoredFloats, bind, pieces_of, stacked
from mlc_llm.weights.encoding import Encoder, Rounder, plain, quantized, whole_tensor
from mlc_llm.weights.memory import keep_freed_memory
from mlc_llm.weights.pack import CHUNK_ELEMENTS
from mlc_llm.weights.rows import RowReader, group_reader, row_reader
from mlc_llm.weights.shards import (
    MANIFEST,
    MANIFEST_16,
    Record,
    Shard,
    plan,
    write_manifests,
)
from mlc_llm.weights.source import StoredTensor

AnyArray = NDArray[Any]
Progress = Callable[[int, int], None]
"""Called with the bytes that are written and with all of them."""

SCRATCH, LOCK = ".converting-", "lock"

ROW_UNIT = 128
"""Rows of a piece are a multiple of this: the blocks of every format are whole."""


class Summary(NamedTuple):
    """What was written."""

    num_tensors: int
    num_parameters: int
    nbytes: int


class Part(Struct, frozen=True):
    """Rows first.. of a parameter that become tensors of their own."""

    read: RowReader
    first: int
    shape: tuple[int, ...]
    encoder: Encoder


class Place(NamedTuple):
    """Where a tensor lies."""

    path: Path
    record: Record


def convert(
    folder: ModelFolder,
    tensors: Mapping[str, StoredTensor],
    storage: Storage,
    output: Path,
    progress: Progress,
    threads: int,
    rounder: Rounder | None = None,
) -> Summary:
    """Write the floats `tensors` of a Hugging Face model into `output` in MLC's form.

    Raises `BadModel` naming the tensor that is wrong, `BadConfig` when `output` cannot be written.
    """
    keep_freed_memory()
    with _scratch(output) as scratch, ThreadPoolExecutor(threads, "convert") as pool:
        try:
            parts = _parts(folder, tensors, storage, rounder, pool)
            shards = plan(record for part in parts for record in part.encoder.records)
            digests = _write_all(scratch, parts, shards, pool, progress)
            num_parameters = sum(int(np.prod(part.shape)) for part in parts)
            write_manifests(scratch, shards, digests, num_parameters)
            with _alone(output):
                _publish(scratch, output, shards)
        except OSError as error:
            raise BadConfig(f"{output}: cannot be written ({error.strerror})") from None
        finally:
            pool.shutdown(cancel_futures=True)
    records = sum(len(shard.records) for shard in shards)
    return Summary(records, num_parameters, sum(shard.nbytes for shard in shards))


def _parts(
    folder: ModelFolder,
    tensors: Mapping[str, StoredTensor],
    storage: Storage,
    rounder: Rounder | None,
    pool: ThreadPoolExecutor,
) -> list[Part]:
    """All tensors to be, in the order in which their sources lie in the files."""
    layout = family(folder.architecture.model_type).mlc
    position = {name: i for i, name in enumerate(tensors)}
    bindings = bind(folder, SCHEMES["q0f32"], tensors)
    bindings.sort(key=lambda b: min(position[piece.name] for piece in _pieces(b)))
    return [part for b in bindings for part in _parts_of(b, layout, storage, rounder, pool)]


def _pieces(binding: Binding) -> tuple[StoredTensor, ...]:
    assert isinstance(binding.stored, StoredFloats)
    return binding.stored.pieces


def _parts_of(
    binding: Binding,
    layout: Layout,
    storage: Storage,
    rounder: Rounder | None,
    pool: ThreadPoolExecutor,
) -> Iterator[Part]:
    spec = binding.spec
    kind: WeightFormat = "f16" if storage.dtype == "F16" else "f32"
    read = row_reader(binding.stored, kind)
    first = 0
    for stored, size in pieces_of(spec, layout.stored_names(spec.name)):
        name = layout.prefixes[0] + stored
        if spec.kind == "vector":
            yield Part(read, first, (size,), plain(name, (size,), storage.dtype))
        elif not storage.quantizes(spec.name):
            shape = (size, spec.cols)
            encoder = plain(name, shape, storage.dtype)
            yield Part(read, first, shape, _of_experts(spec.stack, encoder))
        else:
            shape = (size, spec.cols)
            base = name.removesuffix("weight")
            if storage.kind == "tensor":
                encoder = whole_tensor(base, shape, _largest(read, first, shape, pool))
            else:
                transposed = storage.lies_transposed(spec.name)
                encoder = quantized(base, shape, spec.stack, storage, transposed, rounder)
            yield Part(
                _as_groups(binding, encoder) or read,
                first,
                shape,
                _of_experts(spec.stack, encoder),
            )
        first += size


def _of_experts(stack: int, encoder: Encoder) -> Encoder:
    """The same bytes, called a tensor of `stack` matrices."""
    records = tuple(
        msgspec.structs.replace(record, shape=stacked(stack, record.shape))
        for record in encoder.records
    )
    return msgspec.structs.replace(encoder, records=records)


def _as_groups(binding: Binding, encoder: Encoder) -> RowReader | None:
    """How to read what lies in the very groups that are to be written."""
    assert isinstance(binding.stored, StoredFloats)
    return group_reader(binding.stored, encoder.group_bits) if encoder.group_bits else None


def _largest(
    read: RowReader, first: int, shape: tuple[int, ...], pool: ThreadPoolExecutor
) -> float:
    def largest(piece: tuple[int, int]) -> float:
        rows = read(first + piece[0], first + piece[1])
        assert isinstance(rows, np.ndarray)
        return float(np.abs(rows).max())

    return max(pool.map(largest, _row_pieces(shape)))


def _row_pieces(shape: tuple[int, ...], matrix_rows: int = 0) -> Iterator[tuple[int, int]]:
    """Some rows at a time, those of a piece from one matrix of the stack."""
    rows, *rest = shape
    step = max(1, CHUNK_ELEMENTS // (math.prod(rest) * ROW_UNIT)) * ROW_UNIT
    for begin in range(0, rows, matrix_rows or rows):
        end = begin + (matrix_rows or rows)
        for start in range(begin, end, step):
            yield start, min(start + step, end)


def _write_all(
    scratch: Path,
    parts: Sequence[Part],
    shards: Sequence[Shard],
    pool: ThreadPoolExecutor,
    progress: Progress,
) -> dict[str, str]:
    """Write every file; gives the MD5 of each."""
    places = _make_files(scratch, shards)
    tasks: list[Future[int]] = []
    for part in parts:
        own = [places[record.name] for record in part.encoder.records]
        pieces = _row_pieces(part.shape, part.encoder.matrix_rows)
        tasks += [pool.submit(_write_rows, part, own, *piece) for piece in pieces]
        tasks.append(pool.submit(_write_once, part.encoder, own))
    total = sum(shard.nbytes for shard in shards)
    done = 0
    for task in as_completed(tasks):
        done += task.result()
        progress(done, total)
    names = [shard.name for shard in shards]
    return dict(zip(names, pool.map(lambda name: _md5(scratch / name), names), strict=True))


def _make_files(scratch: Path, shards: Sequence[Shard]) -> dict[str, Place]:
    places: dict[str, Place] = {}
    for shard in shards:
        path = scratch / shard.name
        path.touch()
        os.truncate(path, shard.nbytes)
        places.update({record.name: Place(path, record) for record in shard.records})
    return places


def _write_rows(part: Part, places: Sequence[Place], first: int, last: int) -> int:
    rows = part.read(part.first + first, part.first + last)
    arrays = part.encoder.encode(rows)
    starts = (first, _blocks_before(first, part.encoder))
    for place, array, start in zip(places, arrays, starts, strict=False):
        if part.encoder.transposed:
            _write_columns(place, array, first)
        else:
            _write_at(place, array, start * (array.nbytes // len(array)))
    return sum(array.nbytes for array in arrays)


def _blocks_before(row: int, encoder: Encoder) -> int:
    """How many rows of blocks there are before this row, which begins one."""
    size = encoder.block_rows
    if not encoder.matrix_rows:
        return row // size
    matrices, within = divmod(row, encoder.matrix_rows)
    return matrices * -(-encoder.matrix_rows // size) + within // size


def _write_once(encoder: Encoder, places: Sequence[Place]) -> int:
    if not encoder.once:
        return 0
    for place, array in zip(places[-len(encoder.once) :], encoder.once, strict=True):
        _write_at(place, array, 0)
    return sum(array.nbytes for array in encoder.once)


def _write_columns(place: Place, array: AnyArray, first: int) -> None:
    """Rows of `array` become columns first.. of the tensor."""
    width = place.record.shape[1] * array.itemsize
    with place.path.open("r+b", buffering=0) as file:
        for row, values in enumerate(np.ascontiguousarray(array.T)):
            file.seek(place.record.byte_offset + row * width + first * array.itemsize)
            _write_whole(file, values)


def _write_at(place: Place, array: AnyArray, offset: int) -> None:
    with place.path.open("r+b", buffering=0) as file:
        file.seek(place.record.byte_offset + offset)
        _write_whole(file, np.ascontiguousarray(array))


def _write_whole(file: FileIO, array: AnyArray) -> None:
    view = array.reshape(-1).view(np.uint8).data
    while len(view):
        view = view[file.write(view) :]


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest()


@contextmanager
def _scratch(output: Path) -> Iterator[Path]:
    """A new folder on the same disk as the target, gone afterwards whatever happens."""
    existed = output.exists()
    try:
        output.mkdir(parents=True, exist_ok=True)
        with _alone(output):
            _remove_leftovers(output)
            scratch = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=output))
            lock = (scratch / LOCK).open("w")
            fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        raise BadConfig(f"{output}: cannot be written ({error.strerror})") from None
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        lock.close()
        if not existed:
            with suppress(OSError):  # it has the result
                output.rmdir()


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Hold the folder: no other conversion into it begins or publishes meanwhile."""
    folder = os.open(output, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # a network file system may lock no folders
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _remove_leftovers(output: Path) -> None:
    """What conversions left that were killed: nobody holds their locks any more."""
    for scratch in output.glob(f"{SCRATCH}*"):
        with suppress(OSError), (scratch / LOCK).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(scratch, ignore_errors=True)


def _publish(scratch: Path, output: Path, shards: Sequence[Shard]) -> None:
    """Move the files. Between the first and the last the folder has no manifest, so nobody reads a
    mixture of old and new; who converts into the same folder waits (`_alone`)."""
    for name in (*MANIFEST_NAMES, MANIFEST_16):
        (output / name).unlink(missing_ok=True)
    for shard in shards:
        (scratch / shard.name).replace(output / shard.name)
    for i in count(len(shards)):
        if not (stale := output / f"params_shard_{i}.bin").exists():
            break
        stale.unlink()
    if (scratch / MANIFEST_16).exists():
        (scratch / MANIFEST_16).replace(output / MANIFEST_16)
    (scratch / MANIFEST).replace(output / MANIFEST)
