"""gen_config writes a configuration that describes the same model, and says how tokens are text."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mlc_llm.commands.gen_config import main, tokenizer_info
from mlc_llm.conversation_template.mlc import MlcTemplate
from mlc_llm.conversation_template.names import SHAPES, document
from mlc_llm.errors import BadConfig, BadModel
from mlc_llm.models.architecture import RopeScaling
from mlc_llm.models.folder import open_folder
from support.checkpoints import FIXTURES, load, write_folder
from support.folders import hf_config, tiny_llama, write_hf_folder, write_json
from support.toy_tokenizers import word_pieces


def generated(source: Path, output: Path, *flags: str) -> dict[str, Any]:
    assert main([str(source), "--quantization", "q4f16_1", "-o", str(output), *flags]) == 0
    found: dict[str, Any] = json.loads((output / "mlc-chat-config.json").read_text())
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True},
        {"rope_scaling": RopeScaling(8.0, 1.0, 4.0, 128)},
    ],
)
def test_the_folder_describes_the_model_it_was_made_from(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    write_hf_folder(tmp_path / "hf", tiny_llama(**changes))
    generated(tmp_path / "hf", tmp_path / "mlc")
    source, made = open_folder(tmp_path / "hf"), open_folder(tmp_path / "mlc")
    assert made.format == "mlc"
    assert made.quantization == "q4f16_1"
    for field in ("architecture", "context_window_size", "bos_token_id", "eos_token_ids"):
        assert getattr(made, field) == getattr(source, field), field
    assert made.chat_template == source.chat_template
    assert made.conv_template is None


def test_sizes_of_the_command_line_are_written(tmp_path: Path) -> None:
    write_hf_folder(tmp_path / "hf", tiny_llama())
    flags = ["--context-window-size", "64", "--prefill-chunk-size", "32", "--max-batch-size", "4"]
    found = generated(tmp_path / "hf", tmp_path / "mlc", *flags)
    assert (found["context_window_size"], found["prefill_chunk_size"]) == (64, 32)
    assert found["model_config"]["max_batch_size"] == 4
    assert open_folder(tmp_path / "mlc").context_window_size == 64


def test_a_window_beyond_the_models_positions_is_refused(tmp_path: Path) -> None:
    model = tiny_llama()
    most = model.context_window_size
    write_hf_folder(tmp_path / "hf", model)
    flag = "--context-window-size"
    with pytest.raises(BadConfig, match=f"set it to at most {most}"):
        generated(tmp_path / "hf", tmp_path / "mlc", flag, str(most + 1))
    assert not (tmp_path / "mlc").exists()
    found = generated(tmp_path / "hf", tmp_path / "mlc", flag, str(most))
    assert found["context_window_size"] == most


def test_a_model_that_embeds_says_how(tmp_path: Path) -> None:
    recorded = load(FIXTURES / "bert.npz")
    write_folder(tmp_path / "hf", recorded.config, recorded.tensors)
    write_json(tmp_path / "hf" / "tokenizer.json", word_pieces(["the", "dog"]))
    (tmp_path / "hf" / "1_Pooling").mkdir()
    write_json(tmp_path / "hf" / "1_Pooling" / "config.json", {"pooling_mode_cls_token": True})
    found = generated(tmp_path / "hf", tmp_path / "mlc")
    assert found["model_task"] == "embedding"
    made = open_folder(tmp_path / "mlc")
    assert (made.pooling, made.architecture.encoder) == ("cls", True)


def test_sampling_defaults_are_the_models_else_mlcs(tmp_path: Path) -> None:
    write_hf_folder(tmp_path / "hf", tiny_llama())
    write_json(
        tmp_path / "hf" / "generation_config.json", {"temperature": 0.3, "eos_token_id": [2]}
    )
    found = generated(tmp_path / "hf", tmp_path / "mlc")
    assert (found["temperature"], found["top_p"], found["eos_token_id"]) == (0.3, 1.0, [2])


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path: Path) -> None:
    write_hf_folder(tmp_path / "hf", tiny_llama())
    write_json(tmp_path / "hf" / "config.json", hf_config(tiny_llama(vocab_size=250)))
    with pytest.raises(BadModel, match=r"tokenizer.json: has \d+ tokens but the model only 250"):
        generated(tmp_path / "hf", tmp_path / "mlc")
    assert not (tmp_path / "mlc").exists()


@pytest.mark.parametrize("name", SHAPES)
def test_every_named_template_is_one_that_is_served(name: str) -> None:
    written = document(name)
    assert MlcTemplate(msgspec.json.decode(msgspec.json.encode(written))).stop_token_ids


def test_an_unknown_template_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    write_hf_folder(tmp_path / "hf", tiny_llama())
    with pytest.raises(BadConfig, match="use one of auto, llama-3"):
        generated(tmp_path / "hf", tmp_path / "mlc", "--conv-template", "nonsense")


@pytest.mark.parametrize(
    ("tokenizer", "expected"),
    [
        ({"decoder": {"type": "ByteLevel"}}, ("byte_level", False, False)),
        (
            {
                "normalizer": {
                    "type": "Sequence",
                    "normalizers": [{"type": "Prepend", "prepend": "▁"}],
                },
                "decoder": {
                    "type": "Sequence",
                    "decoders": [
                        {"type": "ByteFallback"},
                        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
                    ],
                },
            },
            ("byte_fallback", True, True),
        ),
        ({"decoder": None}, ("byte_fallback", False, False)),
    ],
)
def test_how_tokens_become_text(
    tokenizer: dict[str, Any], expected: tuple[str, bool, bool]
) -> None:
    found = tokenizer_info(tokenizer)
    assert tuple(found.values()) == expected


@pytest.mark.parametrize("size", ["0", "-4", "1.5", "many"])
def test_a_size_that_is_none_is_a_mistake(
    size: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        generated(tmp_path, tmp_path / "mlc", f"--context-window-size={size}")
    assert f"{size!r} is not a whole number above 0" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_whole_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    write_hf_folder(tmp_path / "hf", tiny_llama())
    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(BadConfig, match=r"cannot be written \(No space left on device\)"):
        generated(tmp_path / "hf", tmp_path / "mlc")
    assert list((tmp_path / "mlc").iterdir()) == []
