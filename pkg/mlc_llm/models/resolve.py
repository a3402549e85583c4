"""From what a user typed for MODEL to a folder on this machine. Of files only names are looked at,
but a GGUF file is unpacked."""

from __future__ import annotations

import re
from pathlib import Path

from mlc_llm.errors import BadModel
from mlc_llm.home import model_weights, readonly_weight_caches
from mlc_llm.models.gguf.unpack import unpack

CONFIG_NAMES = ("mlc-chat-config.json", "config.json")
GGUF_SUFFIX = ".gguf"
PACKAGED_MODEL = Path(__file__).parent.parent / "packaged_model"

_HUB_PREFIXES = ("HF://", "https://huggingface.co/", "http://huggingface.co/")
_HUB_PART = re.compile(r"(?!\.+$)[\w.-]+")


def resolve_model(model: str | None) -> Path:
    """The folder of a model.

    None is the packaged model. Otherwise a folder, the path of its configuration file, a GGUF file
    or a folder with nothing but one (which gives a folder made for it), an address
    of the hub (found only if it is already on this machine) or a bare name, searched in `./`,
    `./dist`, `./dist/prebuilt` and the weight caches. Raises `BadModel` that lists where it looked.
    """
    if model is None:
        return _packaged_model()
    for prefix in _HUB_PREFIXES:
        if model.startswith(prefix):
            return _hub_model(model, model.removeprefix(prefix).rstrip("/").removesuffix(".git"))
    path = Path(model).expanduser()
    if path.name in CONFIG_NAMES and path.is_file():
        return path.parent
    if path.suffix == GGUF_SUFFIX and path.is_file():
        return unpack(path)
    return _first_model(_places(path), f"no model folder was found for {model!r}")


def is_model_folder(path: Path) -> bool:
    """Whether the folder has a configuration file that this version knows by name."""
    return any((path / name).is_file() for name in CONFIG_NAMES)


def _packaged_model() -> Path:
    if is_model_folder(PACKAGED_MODEL):
        return PACKAGED_MODEL
    raise BadModel(f"no model was named and none is packaged at {PACKAGED_MODEL}; name a folder")


def _hub_model(model: str, name: str) -> Path:
    parts = name.split("/")
    if len(parts) != 2 or not all(_HUB_PART.fullmatch(part) for part in parts):
        raise BadModel(f"{model!r} must name a user and a repository, as in HF://user/repo")
    return _first_model(
        _caches(Path(*parts)),
        f"{model!r} is not on this machine and this version does not download; put its files in "
        "the last folder below",
    )


def _places(path: Path) -> list[Path]:
    if path.is_absolute():
        return [path]
    nearby = [path, Path("dist") / path, Path("dist", "prebuilt") / path]
    return [*nearby, model_weights() / path, *_caches(path)]


def _caches(repository: Path) -> list[Path]:
    return [base / "hf" / repository for base in (*readonly_weight_caches(), model_weights())]


def _only_gguf(folder: Path) -> Path | None:
    """The GGUF file of a folder; raises `BadModel` when there are several to choose from."""
    files = sorted(folder.glob(f"*{GGUF_SUFFIX}")) if folder.is_dir() else []
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise BadModel(f"{folder}: has several GGUF files; name one of {names}")
    return files[0] if files else None


def _first_model(places: list[Path], complaint: str) -> Path:
    for place in places:
        if is_model_folder(place):
            return place
        if (file := _only_gguf(place)) is not None:
            return unpack(file)
    listed = ", ".join(str(place) for place in places)
    raise BadModel(f"{complaint} (looked for {' or '.join(CONFIG_NAMES)} in: {listed})")
