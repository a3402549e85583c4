"""Download a model of the hub, through the `huggingface_hub` package, which is loaded only then.

    $MLC_LLM_HOME/model_weights/hf/<user>/<repo>         a whole model
    $MLC_LLM_HOME/model_weights/hf/<user>/.<repo>.part   a download that has not ended
    $MLC_LLM_HOME/model_weights/hf/<user>/.<repo>.lock   held by the one process that downloads it

A folder appears under its name when all of it is there. What an interrupted download left is gone
on with. MLC_DOWNLOAD_CACHE_POLICY is MLC LLM's; HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE are the
package's.
"""

from __future__ import annotations

import fcntl
import fnmatch
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import msgspec

from mlc_llm.errors import BadConfig, BadModel, MLCError
from mlc_llm.models.folder import MANIFEST_NAMES, TOOL_USE

POLICY_VARIABLE = "MLC_DOWNLOAD_CACHE_POLICY"
Policy = Literal["ON", "OFF", "REDO", "READONLY"]

CONFIGURATION = ("*.json", "*.jinja", "merges.txt", "tokenizer.model")
DEEPER = ("1_Pooling/config.json", f"additional_chat_templates/{TOOL_USE}.jinja")
"""The files in folders of a repository that say something about its model."""
UNREAD = ("consolidated*.safetensors", "adapter_model.safetensors")
"""The same weights in another program's layout, and what is merged by `convert_weight` only."""
WEIGHTS = (
    (MANIFEST_NAMES, ("params_shard_*.bin",)),
    (("*.safetensors",), ("*.safetensors",)),
    (("pytorch_model*.bin",), ("pytorch_model*.bin",)),
)
"""The first kind that a repository has, by the one pattern, is fetched, by the other."""

MAX_FILES = 4096
_PLAIN = re.compile(r"(?!\.)[\w.+=-]{1,200}")
_MESSAGE = 300
"""Characters of the package's errors that are passed on."""


def policy(environ: Mapping[str, str]) -> Policy:
    """The policy of MLC_DOWNLOAD_CACHE_POLICY; raises `BadConfig` for an unknown word.

    ON downloads what is not cached, REDO downloads again, READONLY and OFF never download.
    """
    asked = environ.get(POLICY_VARIABLE, "ON")
    try:
        chosen: Policy = msgspec.convert(asked, Policy)
    except msgspec.ValidationError:
        raise BadConfig(f"{POLICY_VARIABLE}={asked} is not ON, OFF, REDO or READONLY") from None
    return chosen


def download(repository: str, target: Path, *, again: bool = False) -> Path:
    """Make `target` the folder of a model; `again` replaces one that is there.

    Raises `BadModel` that names the repository, `BadConfig` when the folder cannot be written.
    """
    with _making(target, again) as part:
        if part is not None:
            _fetch(repository, part, target, None)
            shutil.rmtree(part / ".cache", ignore_errors=True)
            if target.exists():
                shutil.rmtree(target)
            part.rename(target)
    return target


def download_file(repository: str, name: str, target: Path, *, again: bool = False) -> Path:
    """Make `target` the file of this name in a repository; raises what `download` raises."""
    with _making(target, again) as part:
        if part is not None:
            _fetch(repository, part, target, name)
            (part / name).replace(target)
            shutil.rmtree(part, ignore_errors=True)
    return target


@contextmanager
def _making(target: Path, again: bool) -> Iterator[Path | None]:
    """Where to put what `target` is made of; None when it is there already."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_name(f".{target.name}.lock")):
            is_there = target.exists() and not again  # another process may have been faster
            yield None if is_there else target.with_name(f".{target.name}.part")
    except OSError as error:
        raise BadConfig(
            f"{target}: cannot be written ({error.strerror or error}); "
            "set MLC_LLM_HOME to a folder with room"
        ) from None


def chosen_files(names: Iterable[str]) -> list[str]:
    """The files of a repository that a model consists of; none when it has no known weights."""
    names = list(names)
    plain = [name for name in names if _PLAIN.fullmatch(name)][:MAX_FILES]
    unread = set(_matching(plain, UNREAD))
    plain = [name for name in plain if name not in unread]
    deeper = [name for name in DEEPER if name in names]
    for has, wanted in WEIGHTS:
        if _matching(plain, has):
            weights = _matching(plain, wanted)
            return sorted({*_matching(plain, CONFIGURATION), *deeper, *weights})
    return []


def _matching(names: Iterable[str], patterns: Iterable[str]) -> list[str]:
    return [name for name in names if any(fnmatch.fnmatchcase(name, p) for p in patterns)]


def _fetch(repository: str, part: Path, target: Path, only: str | None) -> None:
    """Download the files of a model, or `only` the one of that name, into `part`."""
    try:
        hub: Any = import_module("huggingface_hub")
    except ImportError:
        raise BadConfig("downloading needs a package: pip install huggingface_hub") from None
    endpoint = os.environ.get("HF_ENDPOINT")
    try:
        info = hub.HfApi(endpoint=endpoint).model_info(repository)
        names = [sibling.rfilename for sibling in info.siblings or []]
        files = chosen_files(names) if only is None else [n for n in names if n == only]
        if not files:
            raise BadModel(_no_weights(repository, names, only))
        hub.snapshot_download(
            repository,
            revision=info.sha,
            local_dir=part,
            allow_patterns=files,
            endpoint=endpoint,
        )
    except (MLCError, OSError) as error:
        if isinstance(error, MLCError) or _is_of_disk(error):
            raise
        raise BadModel(_complaint(repository, target, error)) from None
    except Exception as error:  # the package has no root of its own for what goes wrong
        raise BadModel(_complaint(repository, target, error)) from None
    missing = [name for name in files if not (part / name).is_file()]
    if missing:
        raise BadModel(f"{repository}: {missing[0]} did not arrive; try again")


def _no_weights(repository: str, names: Iterable[str], only: str | None) -> str:
    if ggufs := [name for name in names if name.endswith(".gguf")]:
        some = ", ".join(ggufs[:20])
        return f"{repository}: has GGUF files; name one of them, as in HF://{repository}/{some}"
    if only is not None:
        return f"{repository}: has no {only}"
    return f"{repository}: has no safetensors, pytorch_model.bin or MLC weights"


def _is_of_disk(error: BaseException) -> bool:
    """Network errors of the package are `OSError` too, but have no number, or a file name."""
    return isinstance(error, OSError) and error.errno is not None and error.filename is not None


def _complaint(repository: str, target: Path, error: BaseException) -> str:
    text = " ".join(str(error).split())[:_MESSAGE] or type(error).__name__
    return f"{repository}: cannot be downloaded ({text}); try again, or put its files in {target}"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait for the lock; a holder that is killed lets go."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
