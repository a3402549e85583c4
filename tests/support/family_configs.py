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
    "mixtral": {
        **SMALL, "architectures": ["MixtralForCausalLM"], "model_type": "mixtral",
        "num_local_experts": 6, "num_experts_per_tok": 2, "sliding_window": None,
        "rms_norm_eps": 1e-5, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.02,
        "output_router_logits": False,
    },
    "qwen3_moe": {
        **SMALL, "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe",
        "attention_bias": False, "head_dim": 32, "rope_theta": 1000000.0, "num_experts": 20,
        "num_experts_per_tok": 4, "moe_intermediate_size": 40, "norm_topk_prob": True,
        "decoder_sparse_step": 1, "mlp_only_layers": [1], "use_sliding_window": False,
        "max_window_layers": 3, "output_router_logits": False, "router_aux_loss_coef": 0.001,
    },
    "deepseek_v2": {
        **SMALL, "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2",
        "num_key_value_heads": 4, "attention_bias": False, "first_k_dense_replace": 1,
        "kv_lora_rank": 48, "q_lora_rank": None, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16,
        "v_head_dim": 16, "moe_intermediate_size": 40, "moe_layer_freq": 1, "n_group": 1,
        "n_routed_experts": 12, "n_shared_experts": 2, "norm_topk_prob": False,
        "num_experts_per_tok": 3, "routed_scaling_factor": 1.0, "scoring_func": "softmax",
        "topk_group": 1, "topk_method": "greedy",
        "rope_scaling": {
            "beta_fast": 32, "beta_slow": 1, "factor": 4, "mscale": 0.707, "mscale_all_dim": 0.707,
            "original_max_position_embeddings": 80, "type": "yarn",
        },
    },
    "deepseek_v2_groups": {
        **SMALL, "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2",
        "num_key_value_heads": 4, "attention_bias": False, "first_k_dense_replace": 0,
        "kv_lora_rank": 32, "q_lora_rank": 40, "qk_nope_head_dim": 16, "qk_rope_head_dim": 32,
        "v_head_dim": 32, "moe_intermediate_size": 24, "moe_layer_freq": 1, "n_group": 4,
        "n_routed_experts": 16, "n_shared_experts": 1, "norm_topk_prob": False,
        "num_experts_per_tok": 4, "routed_scaling_factor": 1.6, "scoring_func": "softmax",
        "topk_group": 2, "topk_method": "group_limited_greedy",
    },
    "deepseek_v3": {
        **SMALL, "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3",
        "num_key_value_heads": 4, "attention_bias": False, "first_k_dense_replace": 1,
        "kv_lora_rank": 64, "q_lora_rank": 48, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16,
        "v_head_dim": 16, "moe_intermediate_size": 40, "moe_layer_freq": 1, "n_group": 4,
        "n_routed_experts": 16, "n_shared_experts": 1, "norm_topk_prob": True,
        "num_experts_per_tok": 4, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid",
        "topk_group": 2, "topk_method": "noaux_tc", "num_nextn_predict_layers": 0,
        "rope_scaling": {
            "beta_fast": 32, "beta_slow": 1, "factor": 4, "mscale": 1.0, "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 80, "type": "yarn",
        },
    },
    "qwen2_moe": {
        **SMALL, "architectures": ["Qwen2MoeForCausalLM"], "model_type": "qwen2_moe",
        "decoder_sparse_step": 2, "moe_intermediate_size": 40, "num_experts": 6,
        "num_experts_per_tok": 3, "norm_topk_prob": False, "shared_expert_intermediate_size": 72,
        "use_sliding_window": False, "sliding_window": 320, "max_window_layers": 3,
        "router_aux_loss_coef": 0.001, "output_router_logits": False, "rope_theta": 1000000.0,
    },
    "olmoe": {
        **SMALL, "architectures": ["OlmoeForCausalLM"], "model_type": "olmoe",
        "attention_bias": False, "clip_qkv": None, "num_experts": 8, "num_experts_per_tok": 4,
        "norm_topk_prob": False, "rms_norm_eps": 1e-5, "rope_scaling": None,
        "router_aux_loss_coef": 0.01, "output_router_logits": False, "intermediate_size": 48,
    },
    "smollm3": {
        **SMALL, "architectures": ["SmolLM3ForCausalLM"], "model_type": "smollm3",
        "attention_bias": False, "mlp_bias": False, "no_rope_layers": [1, 0, 1],
        "no_rope_layer_interval": 4, "use_sliding_window": False, "sliding_window": None,
        "rope_scaling": None, "rope_theta": 2000000.0, "tie_word_embeddings": True,
    },
    "phi3": {
        **SMALL, "architectures": ["Phi3ForCausalLM"], "model_type": "phi3",
        "attention_bias": False, "rms_norm_eps": 1e-5, "sliding_window": 150,
        "original_max_position_embeddings": 320, "rope_scaling": None,
    },
    "phi4_mini": {
        **SMALL, "architectures": ["Phi3ForCausalLM"], "model_type": "phi3",
        "attention_bias": False, "rms_norm_eps": 1e-5, "sliding_window": None,
        "partial_rotary_factor": 0.75, "max_position_embeddings": 2560,
        "original_max_position_embeddings": 320, "tie_word_embeddings": True,
        "rope_scaling": {
            "type": "longrope",
            "short_factor": [1.0, 1.1, 1.25, 1.5, 2.0, 3.0],
            "long_factor": [1.0, 2.0, 4.0, 8.0, 16.0, 32.0],
        },
    },
    "phi4_mini_long": {
        **SMALL, "architectures": ["Phi3ForCausalLM"], "model_type": "phi3",
        "attention_bias": False, "rms_norm_eps": 1e-5, "sliding_window": None,
        "partial_rotary_factor": 0.75, "max_position_embeddings": 2560,
        "original_max_position_embeddings": 64, "tie_word_embeddings": True,
        "rope_scaling": {
            "type": "longrope",
            "short_factor": [1.0, 1.1, 1.25, 1.5, 2.0, 3.0],
            "long_factor": [1.0, 2.0, 4.0, 8.0, 16.0, 32.0],
        },
    },
    "olmo2": {
        **SMALL, "architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2",
        "attention_bias": False, "rope_theta": 500000, "rope_scaling": None,
    },
    "stablelm": {
        **SMALL, "architectures": ["StableLmForCausalLM"], "model_type": "stablelm",
        "layer_norm_eps": 1e-5, "partial_rotary_factor": 0.25, "use_qkv_bias": True,
        "qk_layernorm": False, "use_parallel_residual": False,
    },
    "stablelm_parallel": {
        **SMALL, "architectures": ["StableLmForCausalLM"], "model_type": "stablelm",
        "layer_norm_eps": 1e-5, "partial_rotary_factor": 0.25, "use_qkv_bias": False,
        "use_parallel_residual": True,
    },
    "gpt_neox": {
        "architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "vocab_size": 131,
        "hidden_size": 64, "intermediate_size": 250, "num_hidden_layers": 3,
        "num_attention_heads": 4, "max_position_embeddings": 320, "hidden_act": "gelu",
        "layer_norm_eps": 1e-5, "rotary_emb_base": 10000, "rotary_pct": 0.25,
        "use_parallel_residual": True, "tie_word_embeddings": False, "bos_token_id": 0,
        "eos_token_id": 0, "torch_dtype": "float32",
    },
    "gpt2": {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": 131,
        "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 320, "n_ctx": 320,
        "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "bos_token_id": 2,
        "eos_token_id": 2, "attn_pdrop": 0.1, "embd_pdrop": 0.1, "resid_pdrop": 0.1,
    },
    "gemma": {
        **SMALL, "architectures": ["GemmaForCausalLM"], "model_type": "gemma",
        "hidden_act": "gelu", "hidden_activation": None, "head_dim": 32,
        "num_key_value_heads": 1, "tie_word_embeddings": True,
    },
    "gemma2": {
        **SMALL, "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2",
        "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh",
        "head_dim": 32, "query_pre_attn_scalar": 24, "sliding_window": 24,
        "sliding_window_size": 24, "attn_logit_softcapping": 5.0, "cache_implementation": "hybrid",
        "final_logit_softcapping": 3.0, "tie_word_embeddings": True,
    },
    "gemma3": {
        **SMALL, "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text",
        "hidden_activation": "gelu_pytorch_tanh", "head_dim": 32, "query_pre_attn_scalar": 32,
        "rope_theta": 1000000, "rope_local_base_freq": 10000, "sliding_window": 24,
        "sliding_window_pattern": 3, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "attn_logit_softcapping": None, "final_logit_softcapping": None,
        "tie_word_embeddings": True,
    },
    "gemma3_vision": {
        "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
        "boi_token_index": 120, "eoi_token_index": 121, "image_token_index": 130,
        "eos_token_id": [1, 106], "mm_tokens_per_image": 4, "torch_dtype": "float32",
        "text_config": {
            "hidden_size": 64, "intermediate_size": 88, "model_type": "gemma3_text",
            "num_hidden_layers": 7, "num_attention_heads": 4, "num_key_value_heads": 2,
            "head_dim": 16, "sliding_window": 24, "vocab_size": 131, "query_pre_attn_scalar": 16,
            "max_position_embeddings": 320,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        },
        "vision_config": {
            "hidden_size": 32, "image_size": 28, "intermediate_size": 32, "patch_size": 14,
            "model_type": "siglip_vision_model", "num_attention_heads": 2, "num_hidden_layers": 1,
        },
    },
}  # fmt: skip
"""By fixture name: a family, or a variant of one."""

ENCODERS: dict[str, dict[str, Any]] = {
    "bert": {
        "architectures": ["BertModel"], "model_type": "bert", "vocab_size": 131, "hidden_size": 64,
        "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 88,
        "hidden_act": "gelu", "max_position_embeddings": 320, "type_vocab_size": 2,
        "layer_norm_eps": 1e-12, "position_embedding_type": "absolute", "pad_token_id": 0,
        "classifier_dropout": None, "torch_dtype": "float32", "use_cache": True,
    },
}  # fmt: skip
"""Of models that make hidden states and nothing else."""
