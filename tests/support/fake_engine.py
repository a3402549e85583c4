"""An engine process without a model: it speaks the whole protocol and echoes the prompt's tokens.

Token id t has the text " t"; a request repeats its prompt, one token per choice and step, until it
was said once (reason STOP) or `max_tokens` is reached (LENGTH). With `ignore_eos` it repeats the
prompt over and over, for ever when `max_tokens` is -1. Steps are as fast as the clients read.

    client = await EngineClient.start(spec, command=fake_engine())
    client = await EngineClient.start(spec, command=fake_engine("--exit-at-start", "7"))
"""

from __future__ import annotations

import argparse
import os
import signal
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from mlc_llm.errors import WIRE_ERRORS
from mlc_llm.ipc.channel import EngineEnd
from mlc_llm.ipc.heartbeat import Phase
from mlc_llm.ipc.launch import exit_with_client, receive
from mlc_llm.ipc.wakeup import wait
from mlc_llm.protocol.messages import (
    PROTOCOL_VERSION,
    Abort,
    Delta,
    Failed,
    Finished,
    FinishReason,
    FromEngine,
    Progress,
    Query,
    Ready,
    Reply,
    Shutdown,
    StartFailed,
    Stats,
    StepOutput,
    Submit,
    TokenLogprob,
)

CAPACITY_TOKENS = 8192
VOCAB_SIZE = 32000
IDLE_S = 1.0


def fake_engine(*flags: str) -> list[str]:
    """The command that starts it; see `parse` for the flags."""
    return [sys.executable, "-P", "-m", "support.fake_engine", *flags]


def parse(argv: list[str]) -> argparse.Namespace:
    """The ways in which it misbehaves."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--start-failed", metavar="KIND", choices=sorted(WIRE_ERRORS))
    parser.add_argument("--exit-at-start", type=int, metavar="CODE")
    parser.add_argument("--only-once", metavar="FILE", help="exits at start where FILE exists")
    parser.add_argument("--die-after-steps", type=int, metavar="N")
    parser.add_argument("--garbage-after-steps", type=int, metavar="N")
    parser.add_argument("--fail-token", type=int, metavar="ID", help="prompts with it are Failed")
    parser.add_argument("--echo-queries", action="store_true", help="replies are the questions")
    parser.add_argument("--never-ready", action="store_true", help="start-up has no end")
    parser.add_argument("--deaf", action="store_true", help="ignores Shutdown and SIGTERM")
    parser.add_argument("handover")
    return parser.parse_args(argv[1:])


class Generation:
    """One request that is being echoed."""

    def __init__(self, submit: Submit) -> None:
        self.submit = submit
        self.tokens = struct.unpack(f"<{len(submit.prompt) // 4}i", submit.prompt)
        self.done = 0

    @property
    def request_id(self) -> str:
        return self.submit.request_id

    def step(self) -> tuple[list[Delta], Finished | None]:
        """The next token of every choice."""
        config = self.submit.generation
        text = f" {self.tokens[self.done % len(self.tokens)]}"
        self.done += 1
        reason = None
        if self.done == config.max_tokens:
            reason = FinishReason.LENGTH
        elif self.done >= len(self.tokens) and not config.ignore_eos:
            reason = FinishReason.STOP
        entry = (text.encode(), -0.5)
        logprobs = (TokenLogprob(*entry, top=(entry,) * config.top_logprobs),)
        deltas = [
            Delta(self.request_id, index, text, 1, reason, logprobs if config.logprobs else ())
            for index in range(config.n)
        ]
        return deltas, None if reason is None else self.finished()

    def abort(self) -> tuple[list[Delta], Finished]:
        """The last words."""
        choices = range(self.submit.generation.n)
        deltas = [Delta(self.request_id, index, "", 0, FinishReason.ABORT) for index in choices]
        return deltas, self.finished()

    def finished(self) -> Finished:
        """The account."""
        completion = self.done * self.submit.generation.n
        return Finished(self.request_id, len(self.tokens), completion)


class Session:
    """The requests of one client."""

    def __init__(self, end: EngineEnd, options: argparse.Namespace) -> None:
        self.end = end
        self.options = options
        self.live: dict[str, Generation] = {}
        self.unsent: list[FromEngine] = []
        self.num_steps = 0
        self.stopping = False

    @property
    def ended(self) -> bool:
        """Whether the client wants no more and has been told everything."""
        return self.stopping and not self.live and not self.unsent and self.end.flush()

    @property
    def can_step(self) -> bool:
        """Whether there is work, and room for what it yields."""
        return bool(self.live) and not self.unsent

    def obey(self) -> None:
        """Do what the client wants."""
        for message in self.end.recv():
            match message:
                case Submit():
                    self.admit(message)
                case Abort(request_id=request_id):
                    self.drop([request_id])
                case Query(query_id=query_id, what=what):
                    self.say(Reply(query_id, self.answer(what)))
                case Shutdown(drain=drain):
                    self.stopping = not self.options.deaf
                    self.drop([] if drain else list(self.live))
        self.flush()

    def admit(self, submit: Submit) -> None:
        """Begin a request, or refuse it."""
        generation = Generation(submit)
        if len(generation.tokens) > CAPACITY_TOKENS:
            failed = Failed(submit.request_id, "PromptTooLong", "The prompt is too long.")
            self.say(StepOutput(failed=[failed]))
        elif self.options.fail_token in generation.tokens:
            failed = Failed(submit.request_id, "EngineFault", "The prompt has the bad token.")
            self.say(StepOutput(failed=[failed]))
        else:
            self.live[submit.request_id] = generation

    def drop(self, request_ids: list[str]) -> None:
        """Abort those that live."""
        dropped = [
            self.live.pop(request_id) for request_id in request_ids if request_id in self.live
        ]
        for generation in dropped:
            deltas, finished = generation.abort()
            self.say(StepOutput(deltas, [finished]))

    def answer(self, what: str) -> bytes:
        """The body of a reply."""
        if self.options.echo_queries:
            return what.encode()
        if what == "reset":
            self.drop(list(self.live))
        if what == "trace":
            return b"[]"
        return msgspec.json.encode(Stats(num_running=len(self.live), num_steps=self.num_steps))

    def step(self) -> None:
        """One token for everybody, in one frame."""
        deltas: list[Delta] = []
        ends: list[Finished] = []
        for generation in list(self.live.values()):
            more, finished = generation.step()
            deltas += more
            if finished is not None:
                ends.append(finished)
                del self.live[generation.request_id]
        self.num_steps += 1
        self.end.heartbeat.stepped()
        self.say(StepOutput(deltas, ends))

    def say(self, message: FromEngine) -> None:
        """Send after what is unsent."""
        self.unsent.append(message)
        self.flush()

    def flush(self) -> None:
        """Send what fits."""
        while self.unsent and self.end.send(self.unsent[0]):
            self.unsent.pop(0)


def steps(sessions: list[Session]) -> Iterator[int]:
    """Number the steps; ends when every client wants that and nothing is left to do."""
    number = 0
    while True:
        for session in sessions:
            session.obey()
        if all(session.ended for session in sessions):
            return
        working = [session for session in sessions if session.can_step]
        for session in sessions:
            session.end.heartbeat.beat(Phase.BUSY if working else Phase.IDLE)
        if not working:
            wait([session.end.wakeup for session in sessions], IDLE_S)
            continue
        for session in working:
            session.step()
        number += 1
        yield number


def serve(sessions: list[Session], options: argparse.Namespace) -> None:
    """The engine loop, with its accidents."""
    for number in steps(sessions):
        if number == options.die_after_steps:
            os.kill(os.getpid(), signal.SIGKILL)
        if number == options.garbage_after_steps:
            sessions[0].end._output.try_write(b"\xc1 no message")
            sessions[0].end._client.notify()


def main(argv: list[str]) -> int:
    """Start as the real engine does."""
    options = parse(argv)
    if options.only_once is not None:
        if Path(options.only_once).exists():
            return 1
        Path(options.only_once).touch()
    if options.exit_at_start is not None:
        print("The fake engine gives up.", file=sys.stderr)
        return int(options.exit_at_start)
    if options.deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    arrival = receive([argv[0], options.handover], sys.stdin.buffer)
    exit_with_client(arrival.lifeline)
    sessions = [Session(end, options) for end in arrival.channels]
    for session in sessions:
        session.say(Progress("load", f"Reading {arrival.spec.model}", 0.5))
        if options.start_failed is not None:
            session.say(StartFailed(options.start_failed, "The fake engine refuses to start."))
        elif not options.never_ready:
            session.say(ready())
    if options.start_failed is None:
        serve(sessions, options)
    return 1 if options.start_failed is not None else 0


def ready() -> Ready:
    """Limits like those of a small model."""
    return Ready(
        protocol_version=PROTOCOL_VERSION,
        pid=os.getpid(),
        vocab_size=VOCAB_SIZE,
        max_num_sequence=64,
        max_total_sequence_length=CAPACITY_TOKENS,
        max_single_sequence_length=CAPACITY_TOKENS,
        prefill_chunk_size=512,
        decisions=("This is the fake engine.",),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv))
