"""The cache of compiled models: hits, damage, policies, races, no compiler."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tvm_ffi
from msgspec.structs import replace

from mlc_llm.compiler import jit
from mlc_llm.compiler.artifact import LibrarySpec, check_metadata, is_intact, seal
from mlc_llm.compiler.inspect_library import library_metadata
from mlc_llm.compiler.jit import Compiled, cache_key, ensure_library
from mlc_llm.compiler.job import CHILD
from mlc_llm.errors import BadConfig, BadModel
from mlc_llm.kernels.cpu.level import detect
from mlc_llm.models.architecture import Architecture, LinearRope
from mlc_llm.models.decoder import build_step
from mlc_llm.quantization.scheme import scheme_by_name
from mlc_workers.runner.library import load_library, open_library
from support.small_models import architecture

SPEC = LibrarySpec(architecture(num_hidden_layers=1), "q0f32", detect().value)

FAKE_CHILD = """
import sys, msgspec
from pathlib import Path
from mlc_llm.compiler.artifact import seal
from mlc_llm.compiler.job import Job
job = msgspec.json.decode(sys.stdin.buffer.readline(), type=Job)
print('{"message": "compiling", "done": 0.5}', flush=True)
print('noise')
path = Path(job.path).with_suffix('.new')
path.write_bytes(b'library')
seal(path)
path.replace(job.path)
"""
REASONS = [
    "no C compiler",
    "CC=nosuchcc -O2 names no program",
    "cannot link a library (cannot find crt1.o)",
    "cannot be written",
]
FAKE = (sys.executable, "-c", FAKE_CHILD)
BROKEN = (sys.executable, "-c", "raise SystemExit('out of cheese')")
IN_NO_TIME = "support.small_models:in_no_time"
NO_LINKER = (sys.executable, "-c", "print('cannot find crt1.o'); raise SystemExit(3)")


class Log:
    """A progress callback that remembers."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def __call__(self, stage: str, message: str, done: float | None) -> None:
        self.messages.append(message)


def ensure(folder: Path, command: tuple[str, ...] = FAKE, **environ: str) -> tuple[Compiled, Log]:
    log = Log()
    found = ensure_library(
        SPEC, log, folder=folder, environ={**os.environ, **environ}, command=command
    )
    return found, log


def test_a_real_library_is_compiled_once_and_loads_without_the_compiler(tmp_path: Path) -> None:
    log = Log()
    first = ensure_library(SPEC, log, folder=tmp_path)
    assert log.messages[-1] == "compiled"
    assert first.path == tmp_path / f"{cache_key(SPEC)}.so"
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".lock", ".so"]
    again, log = ensure(tmp_path, BROKEN)
    assert (again.path, log.messages) == (first.path, [])
    script = (
        "import sys; from pathlib import Path; from mlc_workers.runner.library import *;"
        f"print(load_library(Path({str(first.path)!r})).metadata); assert 'tvm' not in sys.modules"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    metadata = subprocess.check_output([sys.executable, "-c", script], env=environ, text=True)
    check_metadata(metadata, SPEC, "library")
    with pytest.raises(BadModel, match="another quantization; compile it again"):
        check_metadata(metadata, LibrarySpec(SPEC.architecture, "q0f16", SPEC.level), "library")


def test_a_damaged_library_is_refused_when_given_and_made_again_when_cached(tmp_path: Path) -> None:
    found, _ = ensure(tmp_path)
    assert found.path is not None
    whole = found.path.read_bytes()
    for damaged in (whole[:-5], whole[1:], b"", whole[:20] + b"?" + whole[21:]):
        found.path.write_bytes(damaged)
        with pytest.raises(BadModel, match="not a complete model library"):
            load_library(found.path)
        _, log = ensure(tmp_path)
        assert log.messages == ["compiling"]
        assert is_intact(found.path)
    with pytest.raises(BadModel, match=r"gone\.so: No such file or directory"):
        load_library(tmp_path / "gone.so")


def test_the_policy_decides_what_may_be_compiled(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="READONLY and the model is not compiled yet"):
        ensure(tmp_path, MLC_JIT_POLICY="READONLY")
    assert ensure(tmp_path, MLC_JIT_POLICY="ON")[1].messages == ["compiling"]
    assert ensure(tmp_path, BROKEN, MLC_JIT_POLICY="READONLY")[1].messages == []
    assert ensure(tmp_path, MLC_JIT_POLICY="REDO")[1].messages == ["compiling"]
    with pytest.raises(BadConfig, match="OFF forbids compiling; pass --model-lib"):
        ensure(tmp_path, MLC_JIT_POLICY="OFF")
    with pytest.raises(BadConfig, match="MAYBE is not ON, OFF, REDO or READONLY"):
        ensure(tmp_path, MLC_JIT_POLICY="MAYBE")


def test_of_two_that_want_a_library_one_compiles(tmp_path: Path) -> None:
    found: list[tuple[Compiled, Log]] = []
    ready = threading.Barrier(4)

    def want() -> None:
        ready.wait()
        found.append(ensure(tmp_path))

    threads = [threading.Thread(target=want) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({compiled.path for compiled, _ in found}) == 1
    assert sum("compiling" in log.messages for _, log in found) == 1


def test_a_failed_compilation_says_its_last_word_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="could not be compiled: out of cheese"):
        ensure(tmp_path, BROKEN)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_the_key_follows_the_model_and_the_machine_and_nothing_else(tmp_path: Path) -> None:
    variants = [
        SPEC,
        LibrarySpec(architecture(num_hidden_layers=2), SPEC.quantization, SPEC.level),
        LibrarySpec(SPEC.architecture, "q4f16_1", SPEC.level),
        LibrarySpec(SPEC.architecture, SPEC.quantization, "another"),
        LibrarySpec(SPEC.architecture, SPEC.quantization, SPEC.level, "int8"),
    ]
    assert len({cache_key(spec) for spec in variants}) == len(variants)
    assert cache_key(SPEC) == cache_key(LibrarySpec(SPEC.architecture, "q0f32", SPEC.level))
    own = LibrarySpec(SPEC.architecture, "q0f32", SPEC.level, "float32")
    assert cache_key(SPEC) == cache_key(own)


TURNED = {"rope_theta": 9.0, "rope_scaling": LinearRope(2.0), "context_window_size": 64}


@pytest.mark.parametrize(
    ("fields", "changes"),
    [({}, TURNED), ({"sliding_layers": (0,), "sliding_window": 9, "sliding_rope_theta": 7.0},
                    {**TURNED, "sliding_rope_theta": 8.0})],
)  # fmt: skip
def test_models_that_rotate_otherwise_share_a_library_because_it_is_the_same(
    fields: dict[str, Any], changes: dict[str, Any]
) -> None:
    one = architecture(num_hidden_layers=1, **fields)
    other = replace(one, **changes)
    assert key_of(one) == key_of(other)
    first, second = (
        build_step(arch, scheme_by_name(SPEC.quantization), detect()) for arch in (one, other)
    )
    assert tvm_ffi.structural_equal(first, second)


def test_models_whose_positions_are_weights_share_no_library_with_longer_ones() -> None:
    one = architecture(num_hidden_layers=1, learned_positions=True)
    assert key_of(one) != key_of(replace(one, context_window_size=64))


def key_of(arch: Architecture) -> str:
    return cache_key(LibrarySpec(arch, SPEC.quantization, SPEC.level))


@pytest.mark.parametrize("reason", REASONS)
def test_what_cannot_be_cached_is_compiled_in_memory_and_said(
    reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason != REASONS[0]:  # once is enough to see that the module can be run
        monkeypatch.setattr(jit, "COMPILE_IN_MEMORY", IN_NO_TIME)
    folder, command, environ = tmp_path, BROKEN, {}
    if reason == "no C compiler":
        environ = {"PATH": str(tmp_path)}
    elif reason.startswith("CC="):
        environ = {"CC": "nosuchcc -O2"}
    elif reason == "cannot link a library (cannot find crt1.o)":
        command = NO_LINKER
    else:
        (tmp_path / "file").touch()
        folder = tmp_path / "file" / "below"
    found, log = ensure(folder, command, **environ)
    assert found.path is None
    assert "nothing was cached" in found.note
    assert reason in found.note
    assert log.messages[-1] == "compiled"
    if reason == REASONS[0]:
        assert "llama" in open_library(found, threads=2).metadata


@pytest.mark.parametrize(
    ("compiler", "why"),
    [
        ("true", "true made no library"),
        ("sh -c 'echo out of paper; echo collect2: ld failed; exit 1'", "out of paper"),
    ],
)
def test_a_compiler_that_makes_no_library_is_done_without(
    compiler: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jit, "COMPILE_IN_MEMORY", IN_NO_TIME)
    found, log = ensure(tmp_path, CHILD, CC=compiler)
    assert found.path is None
    assert "cannot link a library" in found.note
    assert found.note.endswith(f"{why})")
    assert log.messages[-1] == "compiled"
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_a_compiler_may_be_given_with_its_arguments(tmp_path: Path) -> None:
    found, _ = ensure(tmp_path, CHILD, CC="env LC_ALL=C cc -O1")
    assert found.path is not None
    assert "llama" in load_library(found.path).metadata


def test_a_compiling_child_ends_with_whoever_started_it(tmp_path: Path) -> None:
    script = f"""
import os, sys
from pathlib import Path
from mlc_llm.compiler.jit import ensure_library
from test_compile_cache import SPEC
def progress(stage, message, done):
    if message == "compiling kernels":
        print("compiling", flush=True)
ensure_library(SPEC, progress, folder=Path({str(tmp_path)!r}))
"""
    rooms = [*sys.path, str(Path(__file__).parent)]
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(rooms)},
    )
    with parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"compiling\n"
        (child,) = psutil.Process(parent.pid).children()
        parent.kill()
    child.wait(30)
    assert not list(tmp_path.glob("*.so"))


def test_only_the_libraries_used_last_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jit, "MAX_LIBRARIES", 3)
    for age, name in enumerate("abc"):
        (tmp_path / f"{name}.lock").touch()
        (tmp_path / f"{name}.so").touch()
        os.utime(tmp_path / f"{name}.so", (1000 - age, 1000 - age))
    found, _ = ensure(tmp_path)
    assert found.path is not None
    for kind in ("so", "lock"):
        assert {path.stem for path in tmp_path.glob(f"*.{kind}")} == {"a", "b", found.path.stem}
    os.utime(found.path, (0, 0))
    ensure(tmp_path, BROKEN)  # a hit: now it is the one used last
    assert found.path.stat().st_mtime > 1000


def test_a_library_of_another_machine_is_refused_with_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "alien.so"
    elf = b"\x7fELF\x02\x01\x01" + bytes(9) + (3).to_bytes(2, "little")
    path.write_bytes(elf + (0xB7).to_bytes(2, "little") + bytes(4096))  # of an aarch64
    seal(path)
    for load in (load_library, library_metadata):
        with pytest.raises(BadModel, match="compiled for another kind of machine"):
            load(path)


def test_a_sealed_file_is_intact_only_as_it_was_sealed(tmp_path: Path) -> None:
    path = tmp_path / "library"
    path.write_bytes(np.random.default_rng(0).bytes(1000))
    assert not is_intact(path)
    seal(path)
    assert is_intact(path)
    path.write_bytes(path.read_bytes() + b"\0")
    assert not is_intact(path)
