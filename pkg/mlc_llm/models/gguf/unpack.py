"""A GGUF file as a Hugging Face folder: its configuration and tokenizer written out, its weights
left where they are.

    $MLC_LLM_HOME/gguf/<key>/   config.json, generation_config.json, tokenizer.json,
                                tokenizer_config.json, 1_Pooling/config.json of models that embed,
                                and model.gguf, a link to the file, or model-00001-of-00003.gguf,
                                ..., if there are several

The key is a digest of the files' paths, sizes and times of change and of the code that reads them.
A folder appears whole or not at all; the ones used last stay.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mlc_llm.errors import BadConfig, BadModel
from mlc_llm.home import unpacked_models
from mlc_llm.models.folder import open_folder
from mlc_llm.models.gguf.config import generation_config, model_config, pooling_config
from mlc_llm.models.gguf.parts import names_of, parts_of, read_model
from mlc_llm.models.gguf.tokenizer import remark, tokenizer, tokenizer_config

WEIGHTS = "model.gguf"
PREFIX = "model"
MAX_FOLDERS = 32

_log = logging.getLogger(__name__)


def unpack(file: Path) -> Path:
    """The folder of a file, or of the model it is a part of. Raises `BadModel` for the file,
    `BadConfig` for the place."""
    files = parts_of(file)
    root = unpacked_models()
    folder = root / _key(files)
    if folder.is_dir():
        _used(folder)
        return folder
    header = read_model(files)
    documents = {
        "config.json": model_config(header),
        "generation_config.json": generation_config(header),
        "tokenizer.json": tokenizer(header),
        "tokenizer_config.json": tokenizer_config(header),
    }
    if (pooling := pooling_config(header)) is not None:
        documents["1_Pooling/config.json"] = pooling
    if (text := remark(header)) is not None:
        _log.warning("%s", text)
    try:
        root.mkdir(parents=True, exist_ok=True)
        _make_room(root)
        scratch = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=root))
        try:
            for name, content in documents.items():
                (scratch / name).parent.mkdir(exist_ok=True)
                (scratch / name).write_text(json.dumps(content), encoding="utf-8")
            _check(scratch, file)
            names = names_of(PREFIX, len(files)) if len(files) > 1 else [WEIGHTS]
            for name, part in zip(names, files, strict=True):
                (scratch / name).symlink_to(part.resolve())
            _publish(scratch, folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise BadConfig(
            f"{root}: cannot be written ({error.strerror}); set MLC_LLM_HOME to a folder that can"
        ) from None
    except UnicodeEncodeError:
        raise BadModel(f"{file}: a token or template is not valid text") from None
    return folder


def _check(folder: Path, file: Path) -> None:
    """That a model can be made of what was written; what is wrong is wrong with the file."""
    try:
        open_folder(folder)
    except BadModel as error:
        message = error.message.replace(f"{folder}/", f"{file}: ")
        raise BadModel(message.replace(str(folder), str(file))) from None


def weight_files(folder: Path) -> list[Path]:
    """The GGUF files of a folder that was made by `unpack`; none in other folders."""
    firsts = [folder / WEIGHTS, *sorted(folder.glob(f"{PREFIX}-00001-of-*.gguf"))]
    found = next((first for first in firsts if os.path.lexists(first)), None)
    return [] if found is None else [part.resolve() for part in parts_of(found)]


def source_of(folder: Path) -> Path:
    """What a user calls the model in this folder: the GGUF file it was made of, or itself."""
    return next(iter(weight_files(folder)), folder)


def _publish(scratch: Path, folder: Path) -> None:
    try:
        scratch.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster
            raise


def _key(files: Sequence[Path]) -> str:
    found = hashlib.sha256()
    for file in files:
        if file.exists():
            state = file.stat()
            found.update(f"{file.resolve()}\0{state.st_size}\0{state.st_mtime_ns}\0".encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        found.update(source.read_bytes())
    return found.hexdigest()[:32]


def _used(folder: Path) -> None:
    try:
        os.utime(folder)
    except OSError:
        return  # somebody else's folder: it is only read


def _make_room(root: Path) -> None:
    """Remove the folders used longest ago, and what a process left that was killed."""
    folders = [path for path in root.iterdir() if path.is_dir()]
    folders.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for folder in folders[MAX_FOLDERS - 1 :]:
        shutil.rmtree(folder, ignore_errors=True)
