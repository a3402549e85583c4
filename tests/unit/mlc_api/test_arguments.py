"""The flags of `mlc_llm serve`."""

from __future__ import annotations

import pytest

from mlc_api import arguments, foreign_flags
from mlc_api.arguments import parse
from mlc_api.tls import TlsSettings
from mlc_llm.errors import BadConfig
from mlc_llm.serve.config import to_spec


def test_nothing_is_required() -> None:
    given = parse([])
    assert given.model is None
    assert (given.host, given.port, given.device) == ("127.0.0.1", 8000, "auto")
    assert given.cors.allow_origins == ("*",)
    assert given.config.mode == "local"


@pytest.mark.parametrize("what", ["origins", "methods", "headers"])
def test_both_spellings_of_the_cors_flags_are_known(what: str) -> None:
    for flag in (f"--allow-{what}", f"--allowed-{what}"):
        assert getattr(parse([flag, '["a", "b"]']).cors, f"allow_{what}") == ("a", "b")


def test_the_documented_command_line_parses() -> None:
    given = parse(
        [
            "dist/model", "--model-lib", "m.so", "--device", "cuda:1", "--mode", "server",
            "--speculative-mode", "disable", "--enable-tracing", "--host", "0.0.0.0",
            "--port", "8080", "--allow-credentials", "--allowed-origins", '["*"]',
            "--overrides", "max_num_sequence=32;max_total_seq_length=4096;context_window_size=512",
        ]
    )  # fmt: skip
    spec = to_spec(given.config, "/m", given.device, enable_tracing=given.enable_tracing)
    assert given.model == "dist/model"
    assert spec.model_lib == "m.so"
    assert spec.mode == "server"
    assert spec.max_num_sequence == 32
    assert spec.max_total_sequence_length == 4096
    assert spec.max_single_sequence_length == 512
    assert spec.enable_tracing
    assert given.cors.allow_credentials


def test_there_may_be_several_keys() -> None:
    assert parse([]).api_keys == ()
    assert parse(["--api-key", "a", "m", "--api-key", "b"]).api_keys == ("a", "b")


def test_a_key_may_stand_in_the_environment() -> None:
    assert parse([], {"MLC_LLM_API_KEY": "e"}).api_keys == ("e",)
    assert parse(["--api-key", "a"], {"MLC_LLM_API_KEY": "e"}).api_keys == ("a",)
    assert parse([], {"MLC_LLM_API_KEY": ""}).api_keys == ()


def test_a_certificate_makes_the_server_speak_tls() -> None:
    assert parse([]).tls is None
    tls = parse(["--ssl-certfile", "c.pem", "--ssl-ca-certs", "r.pem"]).tls
    assert tls == TlsSettings(certfile="c.pem", ca_certs="r.pem")


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        (["m", "--max-model-len", "2048"], "--overrides context_window_size=N"),
        (["m", "--max-num-seqs=8"], "--overrides max_num_sequence=N"),
        (["--model", "m"], "mlc_llm serve MODEL"),
        (["m", "-ngl", "99"], "leave it out"),
        (["m", "--lora-modules", "a=b"], "--lora-adapter"),
        (["m", "--no-such-flag", "1"], "unrecognized arguments: --no-such-flag 1"),
    ],
)
def test_a_flag_of_another_server_is_told_what_it_is_here(
    typed: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(typed)
    assert caught.value.code == 2
    assert hint in capsys.readouterr().err.splitlines()[-1]


def test_no_flag_of_ours_is_called_foreign() -> None:
    ours = {flag for action in arguments._parser()._actions for flag in action.option_strings}
    assert not ours & foreign_flags._BY_FLAG.keys()


def test_a_flag_of_its_own_wins_over_the_same_override() -> None:
    given = parse(["--prefill-mode", "chunked", "--overrides", "prefill_mode=hybrid"])
    assert given.config.prefill_mode == "chunked"
    assert parse(["--overrides", "prefill_mode=chunked"]).config.prefill_mode == "chunked"


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (["--speculative-mode", "eagle"], "speculative_mode"),
        (["--additional-models", "a", "b,c"], "additional_models"),
        (["--overrides", "tensor_parallel_shards=2"], "tensor_parallel_shards"),
        (["--embedding-model", "e"], "--embedding-model"),
        (["--api-workers", "2"], "--api-workers"),
        (["--api-key", "k", "--api-key", ""], "--api-key"),
        (["--ssl-keyfile", "k.pem"], "--ssl-certfile"),
        (["--served-model-name", ""], "--served-model-name"),
        (["--device", "cpu:1"], "'cpu:1' is not known"),
        (["--overrides", "speed=11"], "speed"),
        (["--overrides", "max_num_sequence"], "max_num_sequence"),
        (["--device", "tpu"], "tpu"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_sentence(argv: list[str], word: str) -> None:
    def start() -> None:
        given = parse(argv)
        to_spec(given.config, "/m", given.device)

    with pytest.raises(BadConfig, match=word):
        start()


@pytest.mark.parametrize(
    "argv",
    [
        ["--port", "65536"],
        ["--port", "x"],
        ["--allow-origins", "*"],
        ["--allow-origins", "[1]"],
        ["--mode", "fast"],
        ["--max-waiting", "0"],
        ["--max-body-bytes", "0"],
        ["--no-such-flag"],
    ],
)
def test_a_malformed_flag_is_a_usage_error(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(argv)
    assert ended.value.code == 2
    assert argv[0] in capsys.readouterr().err


def test_help_has_every_flag_and_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    options = text.split("--model-lib MODEL_LIB")[-1].split(" --")
    assert len(options) > 20
    for option in options:
        if not option.endswith(","):  # another spelling of the next one
            assert "default:" in option or "not supported" in option, option


def test_what_keys_and_values_are_kept_in_reaches_the_engine() -> None:
    assert parse([]).config.kv_cache_dtype == "auto"
    assert parse(["--kv-cache-dtype", "int8"]).config.kv_cache_dtype == "int8"
    assert parse(["--overrides", "kv_cache_dtype=int8"]).config.kv_cache_dtype == "int8"
