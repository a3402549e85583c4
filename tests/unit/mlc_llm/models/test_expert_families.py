"""Configurations of models with experts: their spellings, and what is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlc_llm.errors import BadModel
from mlc_llm.models.architecture import Architecture
from mlc_llm.models.huggingface import architecture
from support.family_configs import CONFIGS, ENCODERS

PATH = Path("config.json")


def read(name: str, **changed: Any) -> Architecture:
    """The configuration of this name with some keys changed; ... takes a key out."""
    values = {**CONFIGS, **ENCODERS}[name] | changed
    present = {key: value for key, value in values.items() if value is not ...}
    return architecture(present["model_type"], present, PATH)


def test_newer_files_call_the_number_of_experts_otherwise() -> None:
    newer = read("qwen3_moe", num_experts=..., num_local_experts=20)
    assert newer == read("qwen3_moe")


def test_layers_with_experts_are_those_the_file_says() -> None:
    def layers(name: str, **changed: Any) -> tuple[int, ...]:
        experts = read(name, num_hidden_layers=5, **changed).experts
        return () if experts is None else experts.layers

    assert layers("qwen3_moe") == (0, 2, 3, 4)
    assert layers("qwen3_moe", decoder_sparse_step=2, mlp_only_layers=[3]) == (1,)
    assert layers("qwen3_moe", mlp_only_layers=list(range(5))) == ()
    assert layers("deepseek_v2") == (1, 2, 3, 4)
    assert layers("deepseek_v3", moe_layer_freq=2, first_k_dense_replace=1) == (2, 4)
    assert layers("deepseek_v2", n_routed_experts=None) == ()


REFUSED = {
    "more than there are": ("mixtral", {"num_experts_per_tok": 7}, "num_experts_per_tok is more"),
    "more than groups have": ("deepseek_v3", {"topk_group": 1, "n_group": 8}, "is more than"),
    "uneven groups": ("deepseek_v3", {"n_routed_experts": 18}, "do not form 4 groups"),
    "normalised": ("deepseek_v2", {"norm_topk_prob": True}, "norm_topk_prob true"),
    "another way": ("deepseek_v2", {"topk_method": "noaux_tc"}, "topk_method 'noaux_tc'"),
    "scores": ("deepseek_v3", {"scoring_func": "softmax"}, 'scoring_func "softmax"'),
    "odd latent": ("deepseek_v3", {"kv_lora_rank": 40}, "kv_lora_rank"),
    "biased latent": ("deepseek_v3", {"attention_bias": True}, "attention_bias true"),
    "clipped": ("olmoe", {"clip_qkv": 8.0}, "clip_qkv 8.0"),
    "sliding": ("qwen2_moe", {"use_sliding_window": True}, "use_sliding_window true"),
    "short list": ("smollm3", {"no_rope_layers": [1]}, "an entry for each of 3 layers"),
    "relative": ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type"),
    "written": ("bert", {"is_decoder": True}, "is_decoder true"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_computed_is_refused(case: str) -> None:
    name, changed, words = REFUSED[case]
    with pytest.raises(BadModel, match=r"^config\.json: ") as found:
        read(name, **changed)
    assert words in str(found.value)
    assert "\n" not in str(found.value)


def test_parameters_of_all_experts_are_counted() -> None:
    found = read("mixtral", num_hidden_layers=32, vocab_size=32000, hidden_size=4096,
                 intermediate_size=14336, num_attention_heads=32, num_key_value_heads=8,
                 num_local_experts=8)  # fmt: skip
    assert found.num_parameters == 46_702_792_704
