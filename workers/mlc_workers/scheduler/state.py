"""Who waits and who runs, and the only verbs that change it.

Both queues are in order of arrival, and nobody who waits is older than anybody who runs: admission
takes the head of the queue, preemption takes the newest that runs and puts it back at the head.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from itertools import pairwise
from operator import attrgetter

from mlc_workers.cache.kv import KVCache
from mlc_workers.cache.pages import CacheCorrupt
from mlc_workers.request import Choice, Phase
from mlc_workers.scheduler.limits import Limits

_age = attrgetter("age")


class State:
    """The scheduler's books. A choice that runs has a sequence; one that waits has none."""

    def __init__(self, limits: Limits, kv: KVCache) -> None:
        self.limits = limits
        self.kv = kv
        self.running: list[Choice] = []
        self.waiting: deque[Choice] = deque()
        self.num_decoding = 0
        self.num_reserved_rows = 0
        """Rows kept free for the forks of prompts in progress."""
        self.num_preemptions = 0

    def start(self, choice: Choice, matched: list[int], num_rows: int) -> None:
        """The head of the queue gets a row and the pages that are known already."""
        self.waiting.popleft()
        choice.move(Phase.PREFILL)
        choice.sequence = self.kv.open(matched)
        choice.num_reserved_rows = num_rows - 1
        self.num_reserved_rows += num_rows - 1
        self.running.append(choice)

    def begin_decode(self, choice: Choice) -> None:
        """The whole prompt is computed."""
        choice.move(Phase.DECODE)
        self.num_decoding += 1
        self._give_up_rows(choice)
        choice.request.is_forked = True

    def fork(self, child: Choice, prompt: list[int]) -> bool:
        """`child` begins where choice 0 has its prompt computed; False: no row, it must wait."""
        parent = child.request.choices[0]
        child.tokens = prompt
        if parent.sequence is None or not self.kv.table.num_free:
            return False
        child.sequence = self.kv.fork(parent.sequence)
        child.move(Phase.DECODE)
        self.num_decoding += 1
        insort(self.running, child, key=_age)
        return True

    def preempt(self) -> Choice:
        """The newest that runs goes back to the head of the queue; its KV is dropped."""
        choice = self.running[-1]
        self._stop(choice)
        choice.move(Phase.WAITING)
        self.waiting.appendleft(choice)
        self.num_preemptions += 1
        return choice

    def finish(self, choice: Choice) -> None:
        """Legal in every phase; frees everything at once. Finishing twice is harmless."""
        if choice.phase is Phase.FINISHED:
            return
        if choice.sequence is not None:
            self._stop(choice)
        elif choice.tokens and choice.phase is Phase.WAITING:  # no fork that has not begun
            self.waiting.remove(choice)
        choice.move(Phase.FINISHED)

    def audit(self) -> None:
        """Prove that queues, phases, counters and cache agree; raises `CacheCorrupt`."""
        self.kv.audit()
        order = [choice.age for choice in [*self.running, *self.waiting]]
        if not all(a < b for a, b in pairwise(order)):
            raise CacheCorrupt(f"the queues are out of order: {order}")
        if {choice.sequence for choice in self.running} != self.kv.sequences:
            raise CacheCorrupt("sequences and running choices disagree")
        if any(choice.phase is not Phase.WAITING for choice in self.waiting):
            raise CacheCorrupt("a choice waits that is not WAITING")
        if sum(choice.phase is Phase.DECODE for choice in self.running) != self.num_decoding:
            raise CacheCorrupt("the count of decoding choices is wrong")
        if sum(choice.num_reserved_rows for choice in self.running) != self.num_reserved_rows:
            raise CacheCorrupt("the count of reserved rows is wrong")

    def _stop(self, choice: Choice) -> None:
        """Take a running choice out and free what it holds."""
        assert choice.sequence is not None
        self.running.remove(choice)
        self.kv.close(choice.sequence)
        choice.sequence = None
        self._give_up_rows(choice)
        if choice.phase is Phase.DECODE:
            self.num_decoding -= 1

    def _give_up_rows(self, choice: Choice) -> None:
        self.num_reserved_rows -= choice.num_reserved_rows
        choice.num_reserved_rows = 0
