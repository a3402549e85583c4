"""Whatever clients do, however slowly they read: each request ends once, with its own answer."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from mlc_llm.protocol.messages import Abort, FinishReason
from support.fake_runner import continuation
from support.fake_sampler import BAD_SEED, FakeTexts

from .engine_bench import VOCAB, EngineBench, FakeEnd

NUM_CLIENTS = 2
MAX_TOKENS = 30

clients = st.integers(0, NUM_CLIENTS - 1)
prompts = st.lists(st.integers(0, 3), min_size=1, max_size=5).map(lambda few: few * 9)


class Serving(RuleBasedStateMachine):
    """Drives an engine with a small cache and two clients."""

    @initialize(
        num_pages=st.integers(4, 12), max_num_sequence=st.integers(1, 4), chunk=st.integers(3, 40)
    )
    def build(self, num_pages: int, max_num_sequence: int, chunk: int) -> None:
        self.bench = EngineBench(
            num_clients=NUM_CLIENTS,
            num_pages=num_pages,
            max_num_sequence=max_num_sequence,
            prefill_chunk_size=chunk,
            max_waiting=4,
        )
        self.asked: dict[tuple[int, str], tuple[list[int], int, tuple[str, ...]]] = {}
        self.aborted: set[tuple[int, str]] = set()

    @rule(
        client=clients,
        prompt=prompts,
        n=st.sampled_from([1, 1, 2, 3]),
        stop_after=st.none() | st.integers(0, 20),
        seed=st.sampled_from([None, None, None, BAD_SEED]),
        reads=st.sampled_from([None, None, 1]),
    )
    def submit(
        self,
        client: int,
        prompt: list[int],
        n: int,
        stop_after: int | None,
        seed: int | None,
        reads: int | None,
    ) -> None:
        name = f"{'r' if reads is None else 'p'}{len(self.asked)}"
        stops: tuple[str, ...] = ()
        if stop_after is not None:
            answer = continuation(prompt, stop_after + 2, VOCAB)
            stops = (FakeTexts.text_of(answer[stop_after:]),)
        self.asked[client, name] = (prompt, n, stops)
        self.bench.ends[client].submit(
            name,
            prompt,
            n=n,
            max_tokens=MAX_TOKENS,
            stop_strs=stops,
            seed=seed,
            prompt_logprobs=reads,
        )

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        client, name = data.draw(st.sampled_from(sorted(self.asked)))
        self.aborted.add((client, name))
        self.bench.ends[client].to_engine.append(Abort(name))

    @rule(client=clients, is_full=st.booleans())
    def change_reading(self, client: int, is_full: bool) -> None:
        self.bench.ends[client].is_full = is_full

    @rule(times=st.integers(1, 15))
    def turn(self, times: int) -> None:
        self.bench.turn(times)

    def teardown(self) -> None:
        if not hasattr(self, "bench"):
            return
        for end in self.bench.ends:
            end.is_full = False
        self.bench.finish()
        self.bench.assert_all_free()
        for (client, name), (prompt, n, stops) in self.asked.items():
            self.check(self.bench.ends[client], client, name, prompt, n, stops)

    def check(
        self,
        end: FakeEnd,
        client: int,
        name: str,
        prompt: list[int],
        n: int,
        stops: tuple[str, ...],
    ) -> None:
        finished, failed = end.finished(name), end.failed(name)
        assert len(finished) + len(failed) == 1
        if failed:
            return
        assert finished[0].prompt_tokens == len(prompt)
        tokens = [delta.num_tokens for i in range(n) for delta in end.deltas(name, i)]
        assert finished[0].completion_tokens == sum(tokens)
        told = [token.token_id for delta in end.deltas(name) for token in delta.prompt]
        if name.startswith("r") or (client, name) not in self.aborted:
            assert told == (prompt if name.startswith("p") else [])
        for index in range(n):
            (reason,) = end.reasons(name, index)
            limit = min(MAX_TOKENS, self.bench.limits.max_length - len(prompt))
            whole = FakeTexts.text_of(continuation(prompt, limit, VOCAB, shift=index))
            cut = whole.split(stops[0])[0] if stops else whole
            if reason is FinishReason.ABORT:
                assert (client, name) in self.aborted
                assert whole.startswith(end.text(name, index))
            else:
                assert end.text(name, index) == cut


Serving.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
test_every_request_ends_once_with_its_own_answer = Serving.TestCase
