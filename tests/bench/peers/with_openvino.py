"""Measure OpenVINO GenAI. Runs in an interpreter that has `openvino-genai` and numpy.

One sequence goes through `LLMPipeline`, with the attention backend asked for; several go through
`ContinuousBatchingPipeline`, which is how this engine is meant to serve them.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import openvino as ov
import openvino_genai as genai
from shapes import Rates, Shape, driver_parser, measured, report

CACHE_GB = 2
BATCHED_TOKENS = 2048


def generation(tokens: int) -> genai.GenerationConfig:
    """Exactly `tokens` tokens, greedily, of ids as they are."""
    config = genai.GenerationConfig()
    config.max_new_tokens = tokens
    config.min_new_tokens = tokens
    config.ignore_eos = True
    config.do_sample = False
    config.apply_chat_template = False
    return config


class OpenVino:
    """Both pipelines of one model; only those that the shapes need are loaded."""

    def __init__(self, folder: str, threads: int, backend: str) -> None:
        self.folder = folder
        self.backend = backend
        self.properties = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        self.random = np.random.default_rng(0)
        self._one: genai.LLMPipeline | None = None
        self._many: genai.ContinuousBatchingPipeline | None = None

    def measure(self, shape: Shape) -> Rates:
        """Rates of one shape."""
        return self._measure_one(shape) if shape.sequences == 1 else self._measure_many(shape)

    def _ids(self, tokens: int) -> ov.Tensor:
        return ov.Tensor(self.random.integers(10, 15000, (1, tokens)).astype(np.int64))

    def _measure_one(self, shape: Shape) -> Rates:
        if self._one is None:
            backend = {"ATTENTION_BACKEND": self.backend}
            self._one = genai.LLMPipeline(self.folder, "CPU", **backend, **self.properties)
            self._measure_one(Shape(1, 32, 4))
        result = self._one.generate(self._ids(shape.prompt), generation(shape.tokens))
        first = result.perf_metrics.get_ttft().mean / 1e3
        if shape.tokens == 1:
            return Rates(shape.prompt / first, None)
        return Rates(shape.prompt / first, 1e3 / result.perf_metrics.get_tpot().mean)

    def _batching(self) -> genai.ContinuousBatchingPipeline:
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = CACHE_GB
        scheduler.max_num_seqs = 64
        scheduler.max_num_batched_tokens = BATCHED_TOKENS
        scheduler.enable_prefix_caching = False
        scheduler.dynamic_split_fuse = True
        return genai.ContinuousBatchingPipeline(self.folder, scheduler, "CPU", self.properties)

    def _measure_many(self, shape: Shape) -> Rates:
        """The rate of the steps in which every sequence got a token, but the first of them."""
        if self._many is None:
            self._many = self._batching()
            self._measure_many(Shape(2, 32, 4))
        pipeline = self._many
        config = generation(shape.tokens)
        handles = [
            pipeline.add_request(number, self._ids(shape.prompt), config)
            for number in range(shape.sequences)
        ]
        steps = list(_full_steps(pipeline, handles))
        return Rates(None, shape.sequences * (len(steps) - 1) / (steps[-1] - steps[0]))


def _full_steps(
    pipeline: genai.ContinuousBatchingPipeline, handles: list[genai.GenerationHandle]
) -> list[float]:
    """When the steps ended that gave a token to every request."""
    ends: list[float] = []
    while pipeline.has_non_finished_requests():
        pipeline.step()
        now = time.perf_counter()
        tokens = 0
        for handle in handles:
            if handle.can_read():
                tokens += sum(len(part.generated_ids) for part in handle.read().values())
        if tokens == len(handles):
            ends.append(now)
    return ends


def main() -> None:
    """Load, warm up, measure, print."""
    parser = driver_parser(__doc__)
    parser.add_argument("--backend", choices=["PA", "SDPA"], default="PA")
    args = parser.parse_args()
    engine = OpenVino(args.model, args.threads, args.backend)
    measure: Callable[[Shape], Rates] = engine.measure
    report(
        f"OpenVINO GenAI {genai.__version__}",
        measured(args.shape, measure, args.seconds),
    )


if __name__ == "__main__":
    main()
