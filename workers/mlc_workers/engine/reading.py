"""Results of single tokens of prompts, told to whom asked for them: prompt log-probabilities.

What goes wrong with one prompt ends its request. Knows no client and no channel.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlc_llm.errors import EngineFault
from mlc_llm.protocol.messages import FinishReason
from mlc_workers.engine.desk import Desk
from mlc_workers.request import Phase
from mlc_workers.sampling.prompt import likelihoods
from mlc_workers.sampling.sampler import Unsampleable
from mlc_workers.scheduler.step import Step


def tell_prompts(desk: Desk, step: Step, logits: NDArray[np.float32]) -> None:
    """Tell the clients of every prompt token whose logits are in float32[b, vocab]."""
    for index, row in step.reads:
        choice, span = step.choices[index], step.plan.spans[index]
        num_top = choice.request.generation.prompt_logprobs
        if choice.phase is Phase.FINISHED or num_top is None:
            continue
        first = span.start + span.first_read + 1
        tokens = choice.tokens[first : first + span.num_read]
        try:
            found = likelihoods(logits[row : row + span.num_read], tokens, num_top)
        except Unsampleable as error:
            desk.fail(choice.request, EngineFault(f"the prompt could not be read: {error}"))
        else:
            desk.tell_prompt(choice.request, tokens, found)


def end_read_prompts(desk: Desk, step: Step) -> None:
    """End the requests that wanted their prompt read and no token more; the step is settled."""
    for index, _ in (*step.reads, *step.pooled):
        request = step.choices[index].request
        if request.generation.max_tokens == 0 and request.num_read >= request.read_until:
            desk.end(request, FinishReason.LENGTH)
