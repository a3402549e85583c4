"""The documentation's Python snippets run as they stand: word for word, model names included;
and `bare_name.py`, which does what the documentation only says.

The folders that they name are links to a small model; the hub's name is looked up in a cache.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlc_llm.models.resolve import PACKAGED_MODEL, is_model_folder
from support.shared import REPOSITORY, shared_path

SEEDS = Path(__file__).parent / "seeds"


@pytest.fixture(scope="session")
def small_model() -> Path:
    """The model that comes with the package, else a small one beside the repository."""
    if is_model_folder(PACKAGED_MODEL):
        return PACKAGED_MODEL
    return shared_path("data/models/stories260K-hf")


@pytest.fixture(scope="session")
def workplace(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all names of the snippets mean the small model."""
    place = tmp_path_factory.mktemp("seeds")
    for name in (
        "models/phi-2",
        "dist/phi-2-q4f16_1-MLC",
        "cache/hf/mlc-ai/Llama-3-8B-Instruct-q4f16_1-MLC",
    ):
        folder = place / name
        folder.mkdir(parents=True)
        for file in small_model.iterdir():
            (folder / file.name).symlink_to(file)
    return place


def run(script: str, workplace: Path) -> subprocess.CompletedProcess[str]:
    """Run a snippet as a program of its own, from another directory than the repository."""
    path = os.pathsep.join(str(REPOSITORY / room) for room in ("pkg", "workers", "api"))
    done = subprocess.run(
        [sys.executable, str(SEEDS / script)],
        cwd=workplace,
        env={
            **os.environ,
            "PYTHONPATH": path,
            "MLC_LLM_HOME": str(workplace / "home"),
            "MLC_LLM_READONLY_WEIGHT_CACHE": str(workplace / "cache"),
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_the_engine_s_name_is_the_documented_one(workplace: Path) -> None:
    done = run("verify_installation.py", workplace)
    assert done.stdout == "<class 'mlc_llm.serve.engine.MLCEngine'>\n"


def test_a_streamed_answer_is_printed_piece_by_piece(workplace: Path) -> None:
    assert run("stream_response.py", workplace).stdout.strip()


def test_a_whole_answer_is_printed_and_a_forgotten_engine_ends(workplace: Path) -> None:
    printed = run("non_stream_response.py", workplace).stdout
    assert printed.startswith("ChatCompletionResponse(id='chatcmpl-")
    assert "finish_reason='" in printed


def test_a_bare_name_is_found_in_dist(workplace: Path) -> None:
    assert run("bare_name.py", workplace).stdout == "phi-2-q4f16_1-MLC 1\n"


def test_two_concurrent_async_streams(workplace: Path) -> None:
    printed = run("async_stream_response.py", workplace).stdout
    assert printed.count("Output of request chatcmpl-") == 2


def test_the_async_fragments(workplace: Path) -> None:
    assert "ChatCompletionResponse(id='chatcmpl-" in run("async_fragments.py", workplace).stdout


def test_an_engine_over_one_s_own_folder(workplace: Path) -> None:
    assert run("own_model.py", workplace).stdout == ""


def test_an_engine_over_one_s_own_library(workplace: Path) -> None:
    run("own_model.py", workplace)
    built = sorted((workplace / "home/model_lib").rglob("*.so"))
    if not built:
        pytest.skip("no C compiler here, so no library was kept")
    library = workplace / "models/phi-2/lib.so"
    if not library.exists():
        library.symlink_to(built[0])
    run("own_library.py", workplace)


def test_every_keyword_of_the_constructor(workplace: Path) -> None:
    assert run("all_keywords.py", workplace).stdout == "2 512\n"
