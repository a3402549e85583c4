"""How the words are cut that byte-level BPE merges within, by the names that GGUF has for it.

The file only names it (`tokenizer.ggml.pre`; llama.cpp's llama-vocab.cpp has the names); the
patterns and what else is done are those of the models' own tokenizer.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT4 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*" + _TAIL
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _cased(numbers: str, contractions: str) -> str:
    """Words may start with capitals and go on without them."""
    start = r"[^\r\n\p{L}\p{N}]?"
    words = f"{start}{_UPPER}*{_LOWER}+{contractions}|{start}{_UPPER}+{_LOWER}*{contractions}"
    return rf"{words}|\p{{N}}{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*{_TAIL}"


class Words(Struct, frozen=True):
    """How text becomes words before the merges."""

    patterns: tuple[str, ...] = ()
    """Each cuts what those before it left; none is GPT-2's own way."""
    nfc: bool = False
    ignore_merges: bool = False
    """A word that is a token is not put together from merges."""
    digits: bool = False
    """Every digit is a word: cut before GPT-2's way, else after the patterns."""
    bos: bool = False
    """Texts begin with the start token, where the file does not say."""

    @property
    def pre_tokenizer(self) -> dict[str, Any]:
        """The part of this name in tokenizer.json."""
        splits: list[dict[str, Any]] = [
            {"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": False}
            for p in self.patterns
        ]
        digits = [{"type": "Digits", "individual_digits": True}] if self.digits else []
        level = {**BYTE_LEVEL, "use_regex": not self.patterns}
        return {"type": "Sequence", "pretokenizers": [*splits, *digits, level]}


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}

_DEEPSEEK_LETTERS = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293"
    "\u0295-\u02af\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c"
    "\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5"
    "\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59"
    "\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc"
    "\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107"
    "\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee"
    "\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e"
    "\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f"
    "\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2"
    "\U000118a0-\U000118df\U0001e900-\U0001e943"
)
"""Letters of scripts that have case, as DeepSeek's first tokenizers list them."""
_CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"

_GPT2 = Words()
_DIGITS = Words(digits=True)
_LLAMA3 = Words((_GPT4 % "{1,3}",), ignore_merges=True, bos=True)
_CL100K = Words((_GPT4 % "{1,3}",))
_ARCADE = Words((_GPT4 % "",))
_QWEN2 = Words((_GPT4 % "",), nfc=True)
_GPT4O = Words((_cased("{1,3}", _CONTRACTIONS + "?"),))
_DEEPSEEK3 = Words(
    (
        r"\p{N}{1,3}",
        "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
        r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*" + _TAIL,
    )
)

WORDS: Mapping[str, Words] = {
    "a.x-4.0": _GPT2,
    "dbrx": _CL100K,
    "deepseek-coder": Words((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK), digits=True),
    "deepseek-llm": Words(
        (
            r"[\r\n]",
            rf"\s?[{_DEEPSEEK_LETTERS}]+",
            "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
            r"\s+$",
            _CJK,
        ),
        digits=True,
    ),
    "deepseek-r1-qwen": _QWEN2,
    "deepseek-v3": _DEEPSEEK3,
    "f2llmv2": _QWEN2,
    "falcon3": _LLAMA3,
    "gigachat": _GPT2,
    "gpt-2": _GPT2,
    "gpt-4o": _GPT4O,
    "joyai-llm": _DEEPSEEK3,
    "kanana2": _GPT4O,
    "kormo": _ARCADE,
    "llama-bpe": _LLAMA3,
    "llama-v3": _LLAMA3,
    "llama3": _LLAMA3,
    "megrez": _ARCADE,
    "mellum": _GPT2,
    "midm-2.0": _LLAMA3,
    "minerva-7b": _DIGITS,
    "olmo": Words(nfc=True),
    "phi-2": _GPT2,
    "pixtral": _LLAMA3,
    "qwen2": _QWEN2,
    "refact": _DIGITS,
    "seed-coder": Words(
        (_CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+" + _TAIL,)
    ),
    "smaug-bpe": _CL100K,
    "smollm": _DIGITS,
    "stablelm2": _ARCADE,
    "starcoder": _DIGITS,
    "superbpe": Words((r"\p{N}+", r"(?=(\d{3})+(?!\d))")),
    "tekken": Words((_cased("", ""),), ignore_merges=True, bos=True),
    "trillion": _GPT2,
}
"""By `tokenizer.ggml.pre`: those of the architectures that are read."""

USUAL: Mapping[str, str] = {
    "gptneox": "olmo",
    "olmoe": "olmo",
    "qwen2": "qwen2",
    "qwen2moe": "qwen2",
    "qwen3": "qwen2",
    "qwen3moe": "qwen2",
    "smollm3": "llama-bpe",
    "stablelm": "stablelm2",
}
"""What files of an architecture mean that do not say; all others GPT-2's own way."""


def named(pre: str | None, architecture: str) -> str:
    """The key of `WORDS` that a file means, which may be none of them."""
    if pre in (None, "", "default"):
        return USUAL.get(architecture, "gpt-2")
    return str(pre)
