"""The command line of `mlc_llm serve`: flags in, plain values out. Opens no file.

A flag that this version cannot honour is refused with a sentence, never ignored.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

from mlc_api import foreign_flags
from mlc_api.settings import MAX_BODY_BYTES, CorsSettings
from mlc_api.tls import TlsSettings
from mlc_llm.arguments import ArgumentParser
from mlc_llm.errors import BadConfig
from mlc_llm.protocol.spec import KvCacheDtype
from mlc_llm.quantization.scheme import SCHEMES
from mlc_llm.serve.config import EngineConfig, merge, parse_overrides
from mlc_llm.tools.formats import THOUGHT_FORMATS, TOOL_FORMATS

LogLevel = Literal["debug", "info", "warning", "error"]


class Arguments(NamedTuple):
    """What was asked for."""

    model: str | None
    """As it was typed; None: the packaged model."""
    model_id: str | None
    """The name to serve it under, when it was given."""
    device: str
    quantization: str | None
    config: EngineConfig
    max_waiting: int
    enable_tracing: bool
    enable_debug: bool
    host: str
    port: int
    api_keys: tuple[str, ...]
    tls: TlsSettings | None
    max_body_bytes: int
    cors: CorsSettings
    log_level: LogLevel


KEY_VARIABLE = "MLC_LLM_API_KEY"
"""An API key in the environment, which other users of the machine cannot see as they see flags."""


def parse(argv: Sequence[str], environment: Mapping[str, str] = os.environ) -> Arguments:
    """Reads the command line. Exits with code 2 on a malformed one; raises `BadConfig`."""
    parser = _parser()
    given, unknown = parser.parse_known_args(argv)
    if unknown:
        parser.error(foreign_flags.unknown(unknown))
    if not given.api_key and environment.get(KEY_VARIABLE):
        given.api_key = [environment[KEY_VARIABLE]]
    _refuse(given)
    return Arguments(
        model=given.model,
        model_id=given.served_model_name,
        device=given.device,
        quantization=given.quantization,
        config=_config(given),
        max_waiting=given.max_waiting,
        enable_tracing=given.enable_tracing,
        enable_debug=given.enable_debug,
        host=given.host,
        port=given.port,
        api_keys=tuple(given.api_key),
        tls=_tls(given),
        max_body_bytes=given.max_body_bytes,
        cors=CorsSettings(
            allow_origins=given.allow_origins,
            allow_methods=given.allow_methods,
            allow_headers=given.allow_headers,
            allow_credentials=given.allow_credentials,
        ),
        log_level=given.log_level,
    )


def _config(given: argparse.Namespace) -> EngineConfig:
    overrides = parse_overrides(given.overrides)
    for name in ("prefix_cache_mode", "prefill_mode", "kv_cache_dtype"):
        flag = getattr(given, name)
        if flag is not None:
            overrides[name] = flag
    return merge(
        None,
        **overrides,
        mode=given.mode,
        model_lib=given.model_lib,
        speculative_mode=given.speculative_mode,
        additional_models=given.additional_models,
        tool_call_parser=given.tool_call_parser,
        reasoning_parser=given.reasoning_parser,
        tool_call_arguments=given.tool_call_arguments,
    )


def _refuse(given: argparse.Namespace) -> None:
    """Flags that have no place in `EngineConfig`, whose own check refuses the others."""
    if given.embedding_model or given.embedding_model_lib:
        raise BadConfig("--embedding-model is not supported by this version; leave it out")
    if given.api_workers != 1:
        raise BadConfig("--api-workers must be 1: this version has one web process")
    if not all(given.api_key):
        raise BadConfig("--api-key must not be empty; leave it out to serve without a key")
    if given.served_model_name == "":
        raise BadConfig("--served-model-name must not be empty; leave it out to serve under MODEL")
    if given.ssl_certfile is None and (given.ssl_keyfile or given.ssl_ca_certs):
        raise BadConfig("--ssl-keyfile and --ssl-ca-certs need --ssl-certfile beside them")


def _tls(given: argparse.Namespace) -> TlsSettings | None:
    if given.ssl_certfile is None:
        return None
    return TlsSettings(
        certfile=given.ssl_certfile, keyfile=given.ssl_keyfile, ca_certs=given.ssl_ca_certs
    )


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="mlc_llm serve",
        description="Serve a model over OpenAI's REST API. Prints its address when it is ready.",
        epilog="GET /docs on the running server lists every endpoint.",
    )
    _model_flags(parser.add_argument_group("model"))
    _reading_flags(parser.add_argument_group("answers"))
    _engine_flags(parser.add_argument_group("engine"))
    _server_flags(parser.add_argument_group("server"))
    return parser


def _model_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="a Hugging Face or MLC model folder, a GGUF file, HF://user/repo (or a "
        "GGUF file in one), downloaded unless it is on this machine, or a name searched in ./, "
        "./dist, ./dist/prebuilt and the cache (default: the small model that comes with the "
        "package)",
    )
    group.add_argument("--model-lib", help="a compiled library (default: compile and cache one)")
    group.add_argument(
        "--quantization",
        help=f"{', '.join(SCHEMES)}, for a Hugging Face folder (default: q4f16_1 above 300 million "
        "parameters, q8f16_1 above 10 million, else q0f32)",
    )
    group.add_argument(
        "--served-model-name", help="the model's name in the API (default: MODEL as typed)"
    )
    group.add_argument(
        "--additional-models",
        nargs="*",
        metavar="PATH[,LIB]",
        help="draft models for speculative decoding; not supported by this version",
    )
    group.add_argument("--embedding-model", help="not supported by this version")
    group.add_argument("--embedding-model-lib", help="not supported by this version")


def _reading_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--tool-call-parser",
        metavar="NAME",
        help=f"how the model writes calls of tools: {', '.join(TOOL_FORMATS)} (default: what its "
        "chat template shows)",
    )
    group.add_argument(
        "--reasoning-parser",
        metavar="NAME",
        help=f"how the model marks its thoughts: {', '.join(THOUGHT_FORMATS)}, or none to leave "
        "them in the text (default: what its chat template shows)",
    )
    group.add_argument(
        "--tool-call-arguments",
        choices=("string", "object"),
        default="string",
        help="arguments of calls in answers that are not streamed: a string of JSON as OpenAI has "
        "it, or the object itself as MLC LLM has it (default: string)",
    )


def _engine_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--device",
        default="auto",
        help="auto or cpu; this version computes on no other device (default: auto)",
    )
    group.add_argument(
        "--mode",
        choices=("local", "interactive", "server"),
        default="local",
        help="preset of the limits below: local serves 4 sequences at a time, interactive 1, "
        "server as many as memory allows (default: local)",
    )
    group.add_argument(
        "--overrides",
        default="",
        metavar="K=V;K=V",
        help="max_num_sequence, max_total_seq_length, prefill_chunk_size, context_window_size, "
        "sliding_window_size, gpu_memory_utilization, prefix_cache_max_num_recycling_seqs; the "
        "rest of MLC LLM's keys only with the value that switches them off (default: none)",
    )
    group.add_argument(
        "--prefill-mode",
        choices=("hybrid", "chunked"),
        help="whether a step may hold prefill and decode together (default: hybrid)",
    )
    group.add_argument(
        "--kv-cache-dtype",
        choices=get_args(KvCacheDtype),
        help="what keys and values are kept in: int8 takes half the memory of 16 bits (default: "
        "auto, what the quantization computes with)",
    )
    group.add_argument(
        "--prefix-cache-mode",
        choices=("disable", "radix"),
        help="whether beginnings of prompts are kept for later requests (default: radix)",
    )
    group.add_argument(
        "--speculative-mode",
        choices=("disable", "small_draft", "eagle", "medusa"),
        default="disable",
        help="only disable is supported by this version (default: disable)",
    )
    group.add_argument(
        "--max-waiting",
        type=_at_least_one,
        default=1024,
        metavar="N",
        help="requests that may wait before new ones are refused with 503 (default: 1024)",
    )
    group.add_argument(
        "--enable-tracing", action="store_true", help="record an event trace (default: off)"
    )
    group.add_argument(
        "--enable-debug",
        action="store_true",
        help="serve /debug/... and times in `usage.extra` (default: off)",
    )


def _server_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--host", default="127.0.0.1", help="(default: 127.0.0.1)")
    group.add_argument(
        "--port", type=_port, default=8000, help="0 takes a free one (default: 8000)"
    )
    group.add_argument(
        "--api-key",
        action="append",
        default=[],
        metavar="KEY",
        help="ask for 'Authorization: Bearer KEY' or 'X-Api-Key: KEY' everywhere but on /health, "
        "/ready and /ping; given several times, any of the keys will do (default: what "
        f"{KEY_VARIABLE} of the environment holds, else no key)",
    )
    group.add_argument(
        "--ssl-certfile",
        metavar="PEM",
        help="serve HTTPS with this certificate chain (default: serve HTTP)",
    )
    group.add_argument(
        "--ssl-keyfile",
        metavar="PEM",
        help="its private key (default: it is in the certificate's file)",
    )
    group.add_argument(
        "--ssl-ca-certs",
        metavar="PEM",
        help="ask clients for a certificate that one of these has signed (default: ask for none)",
    )
    group.add_argument(
        "--max-body-bytes",
        type=_at_least_one,
        default=MAX_BODY_BYTES,
        metavar="N",
        help=f"largest body of a request; a larger one is a 413 (default: {MAX_BODY_BYTES})",
    )
    group.add_argument(
        "--api-workers", type=int, default=1, help="only 1 is supported (default: 1)"
    )
    group.add_argument(
        "--allow-credentials",
        action="store_true",
        help="let browsers send credentials (default: off)",
    )
    for what in ("origins", "methods", "headers"):
        group.add_argument(
            f"--allow-{what}",
            f"--allowed-{what}",
            type=_strings,
            default=("*",),
            metavar="JSON",
            help=f'list of {what} that browsers may use (default: ["*"])',
        )
    group.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help="how much is printed; debug has a line per request (default: info)",
    )


def _strings(text: str) -> tuple[str, ...]:
    try:
        found: Any = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise argparse.ArgumentTypeError(f"must be a JSON list of strings, not {text}")
    return tuple(found)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"must be between 0 and 65535, not {text}")
    return int(text)


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return int(text)
