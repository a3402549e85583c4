"""What sampling one row costs on the host, by vocabulary and settings; prints a table.

PYTHONPATH=pkg:workers:tests python tests/bench/sampler.py
"""

from __future__ import annotations

import time

import numpy as np

from mlc_llm.protocol.generation import GenerationConfig
from mlc_workers.sampling.sampler import NumpySampler

SETTINGS = {
    "greedy": GenerationConfig(temperature=0),
    "temperature": GenerationConfig(temperature=0.8),
    "top_p 0.95": GenerationConfig(temperature=0.8, top_p=0.95),
    "top_k 50, top_p 0.95": GenerationConfig(temperature=0.8, top_k=50, top_p=0.95),
    "min_p 0.05": GenerationConfig(min_p=0.05),
    "greedy, penalties": GenerationConfig(temperature=0, frequency_penalty=0.5),
    "greedy, 5 logprobs": GenerationConfig(temperature=0, logprobs=True, top_logprobs=5),
}


def microseconds(vocab_size: int, spread: float, config: GenerationConfig) -> float:
    """The median over single rows; logits are normal with standard deviation `spread`."""
    sampler = NumpySampler(vocab_size)
    memory = sampler.open(config, 0)
    source = np.random.default_rng(0)
    rows = source.standard_normal((8, 1, vocab_size), dtype=np.float32) * np.float32(spread)
    samples = []
    for number in range(160):
        started = time.perf_counter()
        sampler.sample(rows[number % 8], [memory])
        samples.append(time.perf_counter() - started)
    return float(np.median(samples)) * 1e6


def main() -> None:
    """Measure and print."""
    columns = [(32_000, 4.0), (128_256, 4.0), (128_256, 1.0)]
    print(f"{'us per row':24}" + "".join(f"{size:>9} x{spread:g}" for size, spread in columns))
    for name, config in SETTINGS.items():
        cells = [microseconds(size, spread, config) for size, spread in columns]
        print(f"{name:24}" + "".join(f"{cell:12.0f}" for cell in cells))


if __name__ == "__main__":
    main()
