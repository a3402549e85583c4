"""Measure ONNX Runtime GenAI. Runs in an interpreter that has `onnxruntime-genai` and numpy."""

from __future__ import annotations

import json
import time

import numpy as np
import onnxruntime_genai as og
from shapes import Measure, Rates, Shape, driver_parser, measured, report


def load(folder: str, threads: int) -> og.Model:
    """The model, computing on `threads` threads."""
    config = og.Config(folder)
    options = {"intra_op_num_threads": threads, "inter_op_num_threads": 1}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
    return og.Model(config)


def measure_with(model: og.Model) -> Measure:
    """A clock around `model`; every prompt is new random ids."""
    random = np.random.default_rng(0)

    def measure(shape: Shape) -> Rates:
        length = shape.prompt + shape.tokens
        parameters = og.GeneratorParams(model)
        parameters.set_search_options(
            max_length=length,
            min_length=length,
            batch_size=shape.sequences,
            do_sample=False,
        )
        generator = og.Generator(model, parameters)
        ids = random.integers(10, 15000, (shape.sequences, shape.prompt)).astype(np.int32)
        started = time.perf_counter()
        generator.append_tokens(ids)
        generator.generate_next_token()
        first = time.perf_counter()
        for _ in range(shape.tokens - 1):
            generator.generate_next_token()
        decoding = time.perf_counter() - first
        tokens = shape.sequences * (shape.tokens - 1)
        return Rates(
            shape.sequences * shape.prompt / (first - started),
            tokens / decoding if tokens else None,
        )

    return measure


def main() -> None:
    """Load, warm up, measure, print."""
    args = driver_parser(__doc__).parse_args()
    measure = measure_with(load(args.model, args.threads))
    measure(Shape(1, 32, 4))
    report(
        f"ONNX Runtime GenAI {og.__version__}",
        measured(args.shape, measure, args.seconds),
    )


if __name__ == "__main__":
    main()
