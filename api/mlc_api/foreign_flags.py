"""Flags of vLLM, SGLang and llama.cpp that people type from habit, and what to type here."""

from __future__ import annotations

from collections.abc import Sequence

_MODEL = "give the model without a flag: mlc_llm serve MODEL"
_CONTEXT = "write --overrides context_window_size=N"
_SEQUENCES = "write --overrides max_num_sequence=N"
_CHUNK = "write --overrides prefill_chunk_size=N"
_MEMORY = "write --overrides gpu_memory_utilization=0.9, which is of the memory that is free"
_ONE_DEVICE = "leave it out: one process computes, on the CPU"
_THREADS = "leave it out, or start under `taskset -c 0-3`: the cores that may be used are"
_ALWAYS = "leave it out: that is always on"
_TEMPLATE = "put it into the model's folder as chat_template.jinja"
_LORA = "merge the adapter with `mlc_llm convert_weight MODEL --lora-adapter FOLDER`"
_REQUEST = "send it with each request"
_NO_CODE = "leave it out: no code of a model is ever run"
_DRAFT = "leave it out: speculative decoding is not in this version"
_FILES = "set MLC_LLM_HOME, the folder where everything is kept"

_HINTS = {
    _MODEL: "--model -m --model-path",
    _CONTEXT: "--max-model-len --ctx-size -c --context-length",
    _SEQUENCES: "--max-num-seqs --parallel -np --max-running-requests",
    _CHUNK: "--max-num-batched-tokens --batch-size -b --ubatch-size -ub --chunked-prefill-size",
    _MEMORY: "--gpu-memory-utilization --mem-fraction-static",
    _ONE_DEVICE: "--tensor-parallel-size -tp --tp --pipeline-parallel-size -pp "
    "--data-parallel-size -dp --n-gpu-layers --gpu-layers -ngl --main-gpu -mg --tensor-split -ts",
    _THREADS: "--threads -t --threads-batch -tb",
    _ALWAYS: "--enable-auto-tool-choice --jinja --enable-prefix-caching --enable-chunked-prefill "
    "--cont-batching -cb --flash-attn -fa --embedding --embeddings --metrics --enable-metrics "
    "--enable-reasoning",
    _TEMPLATE: "--chat-template --chat-template-file",
    _LORA: "--lora-modules --enable-lora --lora --lora-paths",
    _REQUEST: "--temp --temperature --top-k --top-p --min-p --seed --n-predict -n --repeat-penalty "
    "--grammar --grammar-file --json-schema",
    _NO_CODE: "--trust-remote-code",
    _DRAFT: "--speculative-config --model-draft -md --speculative-algorithm",
    _FILES: "--download-dir --hf-home",
    "write --quantization q0f16 or q0f32": "--dtype",
    "write --kv-cache-dtype int8": "--cache-type-k -ctk --cache-type-v -ctv",
    "write --prefix-cache-mode disable": "--no-enable-prefix-caching --disable-radix-cache",
    "write --served-model-name NAME": "--alias -a",
    "write mlc_llm serve HF://user/repo": "--hf-repo -hf -hfr",
    "write --log-level": "--uvicorn-log-level --disable-log-requests --no-enable-log-requests "
    "--disable-log-stats --verbose -v --log-disable",
}
_BY_FLAG = {flag: hint for hint, flags in _HINTS.items() for flag in flags.split()}


def unknown(words: Sequence[str]) -> str:
    """One sentence about words of the command line that mean nothing here."""
    for word in words:
        flag = word.partition("=")[0]
        if flag in _BY_FLAG:
            return f"there is no flag {flag} here; {_BY_FLAG[flag]}"
    return f"unrecognized arguments: {' '.join(words)}"
