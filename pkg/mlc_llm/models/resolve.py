"""From what a user typed for MODEL to a folder on this machine.

Of files only names are looked at, but a GGUF file is unpacked and a model of the hub downloaded.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from mlc_llm.errors import BadModel
from mlc_llm.home import model_weights, readonly_weight_caches
from mlc_llm.models import hub
from mlc_llm.models.gguf.parts import parts_of
from mlc_llm.models.gguf.unpack import unpack

CONFIG_NAMES = ("mlc-chat-config.json", "config.json")
GGUF_SUFFIX = ".gguf"
PACKAGED_MODEL = Path(__file__).parent.parent / "packaged_model"
PACKAGED_NAME = "packaged"
"""What the model that comes with the package is called in requests and answers."""

_VISION = "mmproj"
_HUB_PREFIXES = ("HF://", "https://huggingface.co/", "http://huggingface.co/")
_HUB_PART = re.compile(r"(?!\.+$)[\w.-]+")


def resolve_model(model: str | None) -> Path:
    """The folder of a model.

    None and "packaged" are the packaged model. Otherwise a folder, the path of its configuration
    file, a GGUF file (or a part of one) or a folder with nothing but one (which gives a folder made
    for it), an address of the hub (downloaded unless it is on this machine, `models.hub`) or a bare
    name, searched in `./`, `./dist`, `./dist/prebuilt` and the weight caches. Raises `BadModel`
    that lists where it looked.
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
    if model == PACKAGED_NAME and not path.exists():
        return _packaged_model()
    if path.is_file():
        raise BadModel(f"{path} is neither a GGUF file nor a model's configuration; name a folder")
    if path.suffix == GGUF_SUFFIX and not path.exists():
        raise BadModel(f"there is no file {path}")
    complaint = f"no model folder was found for {model!r}{_hub_hint(model)}"
    return _first_model(_places(path), complaint)


def is_model_folder(path: Path) -> bool:
    """Whether the folder has a configuration file that this version knows by name."""
    return any((path / name).is_file() for name in CONFIG_NAMES)


def _hub_hint(model: str) -> str:
    """A question for what looks like a user and a repository and not like a folder nearby."""
    parts = model.split("/")
    if len(parts) != 2 or not all(map(_HUB_PART.fullmatch, parts)) or Path(parts[0]).is_dir():
        return ""
    return f"; did you mean HF://{model}?"


def _packaged_model() -> Path:
    if is_model_folder(PACKAGED_MODEL):
        return PACKAGED_MODEL
    raise BadModel(f"no model was named and none is packaged at {PACKAGED_MODEL}; name a folder")


def _hub_model(model: str, name: str) -> Path:
    """From the caches, or downloaded into the last of them where the policy allows it."""
    parts = name.split("/")
    if len(parts) > 2 and name.endswith(GGUF_SUFFIX):
        return unpack(_hub_file(model, parts))
    if len(parts) != 2 or not all(_HUB_PART.fullmatch(part) for part in parts):
        raise BadModel(f"{model!r} must name a user and a repository, as in HF://user/repo")
    chosen = hub.policy(os.environ)
    places = _caches(Path(*parts))
    own = places[-1]
    if chosen == "REDO":
        return hub.download(name, own, again=True)
    if chosen == "ON" and not any(is_model_folder(place) or _ggufs(place) for place in places):
        return hub.download(name, own)
    return _first_model(
        places,
        f"{model!r} is not on this machine and {hub.POLICY_VARIABLE}={chosen} forbids to download",
    )


def _hub_file(model: str, names: list[str]) -> Path:
    """A GGUF file of a repository, downloaded with all its parts where the policy allows it. Names
    are those of the user, the repository, perhaps folders in it, and the file."""
    if not all(_HUB_PART.fullmatch(part) for part in names):
        raise BadModel(f"{model!r} must name a file of a repository, as in HF://user/repo/x.gguf")
    chosen = hub.policy(os.environ)
    repository, inner = "/".join(names[:2]), names[2:-1]
    places = [folder.joinpath(*names[2:]) for folder in _caches(Path(*names[:2]))]
    found = next((place for place in places if all(map(Path.is_file, parts_of(place)))), None)
    if chosen == "REDO" or (chosen == "ON" and found is None):
        for part in parts_of(places[-1]):
            if chosen == "REDO" or not part.is_file():
                name = "/".join((*inner, part.name))
                hub.download_file(repository, name, part, again=True)
        return places[-1]
    if found is None:
        listed = ", ".join(map(str, places))
        raise BadModel(
            f"{model!r} is not on this machine and {hub.POLICY_VARIABLE}={chosen} forbids to "
            f"download (looked for: {listed})"
        )
    return found


def _places(path: Path) -> list[Path]:
    if path.is_absolute():
        return [path]
    nearby = [path, Path("dist") / path, Path("dist", "prebuilt") / path]
    return [*nearby, model_weights() / path, *_caches(path)]


def _caches(repository: Path) -> list[Path]:
    return [base / "hf" / repository for base in (*readonly_weight_caches(), model_weights())]


def _has_weights(folder: Path) -> bool:
    """Weights other than GGUF: folders of such files often have a config.json beside them."""
    patterns = [pattern for has, _ in hub.WEIGHTS for pattern in has]
    return any(next(folder.glob(pattern), None) is not None for pattern in patterns)


def _ggufs(folder: Path) -> list[Path]:
    """Of a file in several parts the first, and none that only has how a model sees."""
    if not folder.is_dir():
        return []
    files = [file for file in folder.glob(f"*{GGUF_SUFFIX}") if not file.name.startswith(_VISION)]
    return sorted({parts_of(file)[0] for file in files})


def _only_gguf(folder: Path) -> Path | None:
    """The GGUF file of a folder; raises `BadModel` when there are several to choose from."""
    files = _ggufs(folder)
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise BadModel(f"{folder}: has several GGUF files; name one of {names}")
    return files[0] if files else None


def _first_model(places: list[Path], complaint: str) -> Path:
    for place in places:
        if is_model_folder(place) and (_has_weights(place) or not _ggufs(place)):
            return place
        if (file := _only_gguf(place)) is not None:
            return unpack(file)
    listed = ", ".join(str(place) for place in places)
    raise BadModel(f"{complaint} (looked for {' or '.join(CONFIG_NAMES)} in: {listed})")
