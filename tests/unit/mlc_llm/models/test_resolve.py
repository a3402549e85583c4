"""What a user may type for MODEL, and where it is looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlc_llm import home
from mlc_llm.errors import BadModel
from mlc_llm.models import resolve
from mlc_llm.models.resolve import resolve_model


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder and a home of their own."""
    monkeypatch.setenv("MLC_LLM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    monkeypatch.delenv("MLC_LLM_READONLY_WEIGHT_CACHE", raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def make_model(folder: Path, config: str = "mlc-chat-config.json") -> Path:
    folder.mkdir(parents=True)
    (folder / config).write_text("{}")
    return folder


def test_a_folder_is_itself(here: Path) -> None:
    folder = make_model(here / "somewhere", "config.json")
    assert resolve_model(str(folder)) == folder


@pytest.mark.parametrize("config", ["config.json", "mlc-chat-config.json"])
def test_the_path_of_a_configuration_means_its_folder(config: str, here: Path) -> None:
    folder = make_model(here / "somewhere", config)
    assert resolve_model(str(folder / config)) == folder


@pytest.mark.parametrize("place", ["", "dist", "dist/prebuilt"])
def test_a_bare_name_is_searched_near_the_working_folder(place: str, here: Path) -> None:
    folder = make_model(here / "work" / place / "Llama-q4f16_1-MLC")
    assert resolve_model("Llama-q4f16_1-MLC").resolve() == folder


def test_a_name_is_searched_in_the_cache_last(here: Path) -> None:
    cached = make_model(here / "home/model_weights/hf/mlc-ai/Llama")
    assert resolve_model("mlc-ai/Llama") == cached
    nearer = make_model(here / "work/mlc-ai/Llama")
    assert resolve_model("mlc-ai/Llama").resolve() == nearer


@pytest.mark.parametrize(
    "address",
    [
        "HF://mlc-ai/Llama",
        "https://huggingface.co/mlc-ai/Llama",
        "https://huggingface.co/mlc-ai/Llama/",
    ],
)
def test_an_address_of_the_hub_is_found_in_the_cache(address: str, here: Path) -> None:
    cached = make_model(here / "home/model_weights/hf/mlc-ai/Llama")
    assert resolve_model(address) == cached


def test_read_only_caches_go_before_the_own_one(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(here / "home/model_weights/hf/mlc-ai/Llama")
    second = make_model(here / "second/hf/mlc-ai/Llama")
    monkeypatch.setenv("MLC_LLM_READONLY_WEIGHT_CACHE", f"{here / 'first'}:{here / 'second'}")
    assert resolve_model("HF://mlc-ai/Llama") == second


def test_a_model_of_the_hub_that_is_not_here_says_where_to_put_it(here: Path) -> None:
    with pytest.raises(BadModel) as raised:
        resolve_model("HF://mlc-ai/Llama")
    assert "cannot be downloaded" in raised.value.message
    assert str(here / "home/model_weights/hf/mlc-ai/Llama") in raised.value.message


@pytest.mark.parametrize("name", ["", "a", "a/b/c", "../b", "a/..", "a b/c"])
def test_an_address_must_be_a_user_and_a_repository(name: str) -> None:
    with pytest.raises(BadModel, match="user and a repository"):
        resolve_model(f"HF://{name}")


def test_a_file_that_is_no_model_is_told_so(here: Path) -> None:
    (here / "notes.txt").write_text("x")
    with pytest.raises(BadModel, match=r"notes\.txt is neither a GGUF file"):
        resolve_model(str(here / "notes.txt"))
    with pytest.raises(BadModel, match=r"there is no file .*gone\.gguf"):
        resolve_model(str(here / "gone.gguf"))


def test_an_unknown_name_lists_where_it_was_looked_for() -> None:
    with pytest.raises(BadModel) as raised:
        resolve_model("nothing")
    for place in ("dist/nothing", "dist/prebuilt/nothing", "model_weights/hf/nothing"):
        assert place in raised.value.message


def test_a_repository_without_its_prefix_is_asked_about(here: Path) -> None:
    with pytest.raises(BadModel, match=r"did you mean HF://Qwen/Qwen3-0\.6B\?"):
        resolve_model("Qwen/Qwen3-0.6B")
    (here / "work" / "dist").mkdir()
    for name in ("nothing", "./nothing", "a/b/c", "/a/b", "dist/nothing"):
        with pytest.raises(BadModel) as raised:
            resolve_model(name)
        assert "did you mean" not in raised.value.message


def test_a_folder_without_configuration_is_no_model(here: Path) -> None:
    with pytest.raises(BadModel, match=r"mlc-chat-config\.json or config\.json"):
        resolve_model(str(here))


def test_no_name_means_the_packaged_model(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "PACKAGED_MODEL", here / "packaged")
    with pytest.raises(BadModel, match="none is packaged"):
        resolve_model(None)
    make_model(here / "packaged", "config.json")
    assert resolve_model(None) == here / "packaged"


def test_the_packaged_model_has_a_name(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "PACKAGED_MODEL", make_model(here / "site-packages/model"))
    assert resolve_model("packaged") == here / "site-packages/model"
    nearer = make_model(here / "work/packaged")
    assert resolve_model("packaged").resolve() == nearer


def test_home_is_the_users_choice_then_the_platforms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    monkeypatch.setenv("MLC_LLM_HOME", "/chosen")
    assert home.home() == Path("/chosen")
    monkeypatch.delenv("MLC_LLM_HOME")
    assert home.home() == Path("/caches/mlc_llm")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert home.home() == Path.home() / ".cache" / "mlc_llm"
    assert home.model_lib() == Path.home() / ".cache" / "mlc_llm" / "model_lib"
