"""Small models of every family, their config.json spelled as the published ones are.

Sizes are small; what is odd about a family is as in the real files.
"""

from __future__ import annotations

from typing import Any

SMALL: dict[str, Any] = {
    "vocab_size": 131,
    "hidden_size": 64,
    "intermediate_size": 88,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 320,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}

LLAMA3_ROPE = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 64,
    "rope_type": "llama3",
}
YARN_ROPE = {"factor": 4.0, "original_max_position_embeddings": 80, "type": "yarn"}

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {
        **SMALL, "architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "attention_bias": False, "mlp_bias": False, "rope_theta": 500000.0, "head_dim": 16,
        "rope_scaling": LLAMA3_ROPE, "tie_word_embeddings": True, "pretraining_tp": 1,
    },
    "llama_attention_bias": {
        **SMALL, "architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "attention_bias": True, "rope_scaling": {"type": "linear", "factor": 2.0},
    },
    "llama_dynamic_rope": {
        **SMALL, "architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "rope_scaling": {"type": "dynamic", "factor": 2.0},
    },
    "mistral": {
        **SMALL, "architectures": ["MistralForCausalLM"], "model_type": "mistral",
        "rms_norm_eps": 1e-5, "sliding_window": 24, "initializer_range": 0.02,
    },
    "qwen2": {
        **SMALL, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2",
        "rope_theta": 1000000.0, "sliding_window": 32, "use_sliding_window": False,
        "max_window_layers": 2, "use_mrope": False, "tie_word_embeddings": True,
    },
    "qwen2_sliding_yarn": {
        **SMALL, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2",
        "rope_theta": 1000000.0, "sliding_window": 40, "use_sliding_window": True,
        "max_window_layers": 1, "rope_scaling": YARN_ROPE,
    },
    "qwen3": {
        **SMALL, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3",
        "attention_bias": False, "head_dim": 32, "rope_theta": 1000000, "rope_scaling": None,
        "sliding_window": None, "use_sliding_window": False, "max_window_layers": 3,
        "tie_word_embeddings": True,
    },
}  # fmt: skip
"""By fixture name: a family, or a variant of one."""
