"""An event loop in a thread of its own, for callers that have none, or another one.

Knows nothing of engines. The thread is a daemon: a program that forgets it still ends.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

T = TypeVar("T")


class LoopStopped(RuntimeError):
    """The loop has stopped and runs nothing more."""


class LoopElsewhere(LoopStopped):
    """The loop runs in the process that this one was forked from; here it never will."""


class LoopThread:
    """Runs coroutines for other threads until it is stopped."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._pid = os.getpid()
        self._stopped = False
        # Guards `_stopped`, so that everything submitted is in the loop's queue before its stop is.
        # Reentrant: the collector may run under it and call here from somebody's `__del__`.
        self._lock = threading.RLock()
        # The target must not hold `self`: an owner that is dropped takes this object with it.
        self._thread = threading.Thread(target=_run, args=(self._loop,), name=name, daemon=True)
        self._thread.start()

    @property
    def is_elsewhere(self) -> bool:
        """Whether this is a forked process, which has the objects of the loop but not its thread.

        To be asked before the lock is taken: it may have been copied while it was held.
        """
        return os.getpid() != self._pid

    @property
    def is_current(self) -> bool:
        """Whether the caller runs in this very thread, where waiting for the loop never ends."""
        return threading.current_thread() is self._thread

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run in the loop; cancelling the future cancels the task. Raises `LoopStopped`."""
        if self.is_elsewhere:
            coroutine.close()
            raise LoopElsewhere
        with self._lock:
            if not self._stopped:
                return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        coroutine.close()
        raise LoopStopped

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run in the loop and wait for the result; an interrupt of the waiting cancels the task.

        Raises `LoopStopped`, also when the loop is stopped meanwhile.
        """
        future = self.submit(coroutine)
        try:
            return future.result()
        except CancelledError:
            raise LoopStopped from None
        finally:
            future.cancel()

    def call(self, function: Callable[..., object], *args: object) -> None:
        """Call in the loop, soon, without waiting; nothing happens once the loop has stopped."""
        if self.is_elsewhere:
            return
        with self._lock:
            if not self._stopped:
                self._loop.call_soon_threadsafe(function, *args)

    def stop(self) -> None:
        """Cancel what still runs, end the thread and wait for it (unless it is the caller)."""
        if self.is_elsewhere:
            return
        with self._lock:
            if not self._stopped:
                self._stopped = True
                self._loop.call_soon_threadsafe(self._loop.stop)
        if not self.is_current:
            self._thread.join()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        asyncio.set_event_loop(None)
        loop.close()
