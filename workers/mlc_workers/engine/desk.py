"""Requests as clients see them: taken in, answered, aborted, failed; each ends exactly once.

Stands between the clients and the scheduler. Whatever goes wrong with one request ends here, as
that request's `Failed`; knows no device and no step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from mlc_llm.errors import (
    BadRequest,
    DuplicateRequest,
    EngineFault,
    EngineUnavailable,
    MLCError,
    Overloaded,
)
from mlc_llm.protocol.generation import GenerationConfig
from mlc_llm.protocol.messages import Delta, FinishReason, PromptToken, Submit
from mlc_llm.tracing.events import Event
from mlc_llm.tracing.recorder import Recorder
from mlc_workers.engine.answer import (
    account,
    cut,
    extend,
    failure,
    follow,
    prompt_token,
    too_complex,
)
from mlc_workers.engine.inbox import Checks, Client, read_submit
from mlc_workers.engine.sampler import Sampler
from mlc_workers.engine.stats import REASONS, Counters
from mlc_workers.guided.held import Grammars, Held
from mlc_workers.request import Choice, GrammarTooComplex, Phase, Request, TextFeed
from mlc_workers.sampling.prompt import Likelihood
from mlc_workers.sampling.sampler import Pick
from mlc_workers.scheduler.scheduler import Scheduler

MAX_HELD = 1024
"""Requests that may wait for their grammars."""


class Texts(Protocol):
    """The vocabulary, as text."""

    def open(self, generation: GenerationConfig) -> TextFeed:
        """The text of a new choice."""
        ...

    def bytes_of(self, token_id: int) -> bytes:
        """The bytes one token stands for."""
        ...


class Desk:
    """All live requests of all clients."""

    def __init__(
        self,
        scheduler: Scheduler,
        sampler: Sampler,
        texts: Texts,
        checks: Checks,
        counters: Counters,
        recorder: Recorder | None,
        clock: Callable[[], float],
        grammars: Grammars | None = None,
    ) -> None:
        """Without `grammars`, a request that wants one is refused."""
        self._grammars = grammars
        self._held = Held()
        self._scheduler = scheduler
        self._sampler = sampler
        self._texts = texts
        self._checks = checks
        self._counters = counters
        self._recorder = recorder
        self._clock = clock
        self._serial = 0
        self._clients: dict[int, Client] = {}

    @property
    def num_held(self) -> int:
        """Requests that wait for their grammars."""
        return len(self._held)

    def add_client(self, client: Client) -> None:
        self._clients[client.number] = client

    def remove_client(self, client: Client) -> None:
        """Forget a client and everything that it asked for; nobody is told."""
        for request in client.live.values():
            self._scheduler.drop(request)
        client.live.clear()
        del self._clients[client.number]

    def submit(self, client: Client, submit: Submit) -> None:
        """Take a request in, or say why not."""
        self._trace(Event.RECEIVE_REQUEST, submit.request_id)
        try:
            request = self._admitted(client, submit)
        except MLCError as error:
            self._fail(client, submit.request_id, error)
            return
        except Exception as error:
            self._fail(client, submit.request_id, EngineFault(f"the request failed: {error}"))
            return
        client.live[submit.request_id] = request
        self._counters.prompt_tokens += request.num_prompt_tokens
        self._trace(Event.REQUEST_ADDED, submit.request_id)
        if request.generation.prompt_logprobs is not None:
            self._tell_first(client, request)
        if request.generation.max_tokens == 0 and not request.read_until:
            self._cut(client, request, FinishReason.LENGTH)

    def abort(self, client: Client, request_id: str) -> None:
        """End a request in whichever phase; one that is not live has ended already."""
        request = client.live.get(request_id)
        if request is not None:
            self._trace(Event.ABORT, request_id)
            self._cut(client, request, FinishReason.ABORT)

    def abort_all(self, client: Client) -> None:
        """End every request of the client."""
        for request_id in list(client.live):
            self.abort(client, request_id)

    def fail_all(self, client: Client, error: MLCError) -> None:
        """End every request of the client without an answer."""
        for request in list(client.live.values()):
            self.fail(request, error)

    def fail(self, request: Request, error: MLCError) -> None:
        """End a request without an answer."""
        client = self._clients[request.key.client]
        if client.live.pop(request.key.request_id, None) is None:
            return
        self._scheduler.drop(request)
        self._fail(client, request.key.request_id, error)

    def fail_grammar(self, request: Request, error: GrammarTooComplex) -> None:
        """End a request whose grammar cannot be followed any further."""
        grammar = request.generation.grammar
        if self._grammars is not None and grammar is not None:
            self._grammars.forget(grammar)
        self.fail(request, too_complex(request, error))

    def end(self, request: Request, reason: FinishReason) -> None:
        """End a request that has all it asked for."""
        client = self._clients[request.key.client]
        if request.key.request_id in client.live:
            self._cut(client, request, reason)

    def tell_prompt(
        self, request: Request, tokens: Sequence[int], found: Sequence[Likelihood]
    ) -> None:
        """Tell the client of the next tokens of the prompt."""
        told = tuple(
            prompt_token(token, likelihood, self._texts.bytes_of)
            for token, likelihood in zip(tokens, found, strict=True)
        )
        delta = Delta(request.key.request_id, 0, "", 0, prompt=told)
        self._clients[request.key.client].outbox.deltas.append(delta)

    def _tell_first(self, client: Client, request: Request) -> None:
        """The first token of a prompt follows nothing, so it is known at once."""
        token = request.choices[0].tokens[0]
        first = PromptToken(token, self._texts.bytes_of(token), None, 0)
        client.outbox.deltas.append(Delta(request.key.request_id, 0, "", 0, prompt=(first,)))

    def queue_held(self) -> None:
        """Queue the requests whose grammar is ready; fail those that will get none."""
        for request, outcome in self._held.take(self._clock()):
            if isinstance(outcome, MLCError):
                self.fail(request, outcome)
                continue
            self._serial += 1
            request.release(self._serial)
            for choice in request.choices:
                choice.guide = outcome.open(request.stop_token_ids)
            error = self._scheduler.submit(request)
            if error is not None:
                self.fail(request, error)

    def answer(self, choice: Choice, pick: Pick) -> None:
        """Tell the client of a token and of what a grammar forces after it; end the choice, and
        with the last one the request.
        """
        request = choice.request
        if choice.phase is Phase.FINISHED:
            return
        try:
            told = self._told(choice, pick)
        except GrammarTooComplex as error:
            self.fail_grammar(request, error)
            return
        except EngineFault as fault:
            self.fail(request, fault)
            return
        except Exception as error:
            self.fail(request, EngineFault(f"the answer could not be turned into text: {error}"))
            return
        client = self._clients[request.key.client]
        for delta in told:
            client.outbox.deltas.append(delta)
            if self._recorder is not None:
                event = Event.YIELD_DELTA if delta.text else Event.SKIP_EMPTY_DELTA
                self._recorder.instant(event, request.key.request_id)
        reason = told[-1].finish_reason
        if reason is not None:
            self._scheduler.finish(choice)
            if request.is_finished:
                self._finish(client, request, reason)

    def _told(self, choice: Choice, pick: Pick) -> list[Delta]:
        delta = extend(choice, pick, self._texts.bytes_of)
        if delta.finish_reason is not None:
            return [delta]
        forced = follow(
            choice, partial(self._sampler.observe, choice.sampler), self._texts.bytes_of
        )
        if forced is None:
            return [delta]
        self._counters.generation_tokens += forced.num_tokens
        return [delta, forced]

    def _admitted(self, client: Client, submit: Submit) -> Request:
        """The request, queued; raises what is wrong with it."""
        if client.is_leaving:
            raise EngineUnavailable("the engine is shutting down")
        if submit.request_id in client.live:
            raise DuplicateRequest("a request with this id is running; use another id")
        self._serial += 1
        request = read_submit(
            submit, client, self._checks, serial=self._serial, received=self._clock()
        )
        if isinstance(request, MLCError):
            raise request
        generation = request.generation
        for choice in request.choices:
            choice.text = self._texts.open(generation)
            choice.sampler = self._sampler.open(generation, choice.index)
        queue = self._hold if generation.grammar is not None else self._scheduler.submit
        error = queue(request)
        if error is not None:
            raise error
        return request

    def _hold(self, request: Request) -> MLCError | None:
        """Keep a request out of the queue until its grammar is ready, or say why it is refused."""
        grammar = request.generation.grammar
        assert grammar is not None
        if self._grammars is None:
            return BadRequest(
                f"`{grammar.param}` cannot be used: this engine knows no grammars",
                param=grammar.param,
            )
        error = self._scheduler.refusal(request)
        if error is not None:
            return error
        if len(self._held) >= MAX_HELD:
            return Overloaded("too many requests wait for their grammars; try again later")
        self._held.add(request, self._grammars.ask(grammar), self._clock())
        return None

    def _cut(self, client: Client, request: Request, reason: FinishReason) -> None:
        """End every choice that has not ended yet."""
        client.outbox.deltas += [
            cut(choice, reason) for choice in request.choices if choice.phase is not Phase.FINISHED
        ]
        self._scheduler.drop(request)
        self._finish(client, request, reason)

    def _finish(self, client: Client, request: Request, reason: FinishReason) -> None:
        del client.live[request.key.request_id]
        client.outbox.finished.append(account(request))
        self._counters.finished[REASONS[reason]] += 1
        self._trace(Event.FINISH, request.key.request_id)

    def _fail(self, client: Client, request_id: str, error: MLCError) -> None:
        client.outbox.failed.append(failure(request_id, error))
        self._counters.finished[REASONS[FinishReason.ERROR]] += 1
        self._trace(Event.ERROR, request_id)

    def _trace(self, event: Event, request_id: str) -> None:
        if self._recorder is not None:
            self._recorder.instant(event, request_id)
