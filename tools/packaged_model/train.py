"""Train the packaged model and write it as a Hugging Face folder.

    python -m tools.packaged_model.train pkg/mlc_llm/packaged_model

Needs torch and safetensors (the product needs neither). About 20 minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional as F

from tools.packaged_model.corpus import Sample, samples
from tools.packaged_model.network import ARCHITECTURE, Llama

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WINDOW = 256


def render(sample: Sample) -> str:
    """The sample as the chat template writes it, ended by the end-of-text token."""
    if isinstance(sample, str):
        return sample + "<|endoftext|>"
    return (
        "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in sample)
        + "<|endoftext|>"
    )


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Byte-level BPE over the corpus; every byte has a token, so every text can be encoded."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=ARCHITECTURE.vocab_size,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def pack(tokenizer: Tokenizer, texts: list[str]) -> np.ndarray:
    """All texts as one stream of ids."""
    return np.concatenate([np.array(e.ids, np.int64) for e in tokenizer.encode_batch(texts)])


def train(model: Llama, stream: np.ndarray, steps: int, batch: int) -> None:
    """AdamW with warm-up and cosine decay."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, betas=(0.9, 0.95), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda i: 2e-3 * min(1.0, i / 100) * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * i / steps))),
    )
    pick = np.random.default_rng(0)
    started = time.monotonic()
    for step in range(steps):
        starts = pick.integers(0, len(stream) - WINDOW - 1, batch)
        rows = torch.from_numpy(np.stack([stream[s : s + WINDOW + 1] for s in starts]))
        logits = model(rows[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            took = time.monotonic() - started
            print(f"step {step}/{steps} loss {loss.item():.3f} {took:.0f} s", flush=True)


def write(folder: Path, model: Llama, tokenizer: Tokenizer) -> None:
    """The Hugging Face folder: weights as float16, configuration, tokenizer, chat template."""
    a = ARCHITECTURE
    folder.mkdir(parents=True, exist_ok=True)
    weights = {f"model.{k}": v.half().contiguous() for k, v in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": a.model_type,
        "hidden_size": a.hidden_size,
        "intermediate_size": a.intermediate_size,
        "num_hidden_layers": a.num_hidden_layers,
        "num_attention_heads": a.num_attention_heads,
        "num_key_value_heads": a.num_key_value_heads,
        "head_dim": a.head_dim,
        "vocab_size": a.vocab_size,
        "max_position_embeddings": a.context_window_size,
        "rms_norm_eps": a.rms_norm_eps,
        "rope_theta": a.rope_theta,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": a.tie_word_embeddings,
        "bos_token_id": 0,
        "eos_token_id": [0, 2],
        "torch_dtype": "float16",
    }
    generation = {"bos_token_id": 0, "eos_token_id": [0, 2], "temperature": 0.7, "top_p": 0.95}
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": False,
        "bos_token": "<|endoftext|>",
        "eos_token": "<|im_end|>",
        "model_max_length": a.context_window_size,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    for name, value in (
        ("config.json", config),
        ("generation_config.json", generation),
        ("tokenizer_config.json", tokenizer_config),
    ):
        (folder / name).write_text(json.dumps(value, indent=1) + "\n")


def main() -> None:
    """Parse the command line, train, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=2200)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--samples", type=int, default=60_000)
    args = parser.parse_args()
    torch.manual_seed(0)
    texts = [render(s) for s in samples(seed=0, count=args.samples)]
    tokenizer = train_tokenizer(texts)
    stream = pack(tokenizer, texts)
    model = Llama()
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{len(stream)} tokens, vocabulary {tokenizer.get_vocab_size()}, {parameters} parameters")
    train(model, stream, args.steps, args.batch)
    write(args.folder, model, tokenizer)


if __name__ == "__main__":
    main()
