"""Give up what nobody waits for: a block of code that ends when its client goes away."""

from __future__ import annotations

import asyncio
from types import TracebackType

from litestar.types import Receive


class UntilDisconnect:
    """Runs its body until the client disconnects; then the body is cancelled and left quietly.

    Afterwards `gone` says whether it happened. The request's body must have been read before. A
    cancellation from elsewhere (the server's shutdown) passes through.
    """

    def __init__(self, receive: Receive) -> None:
        self.gone = False
        self._receive = receive

    async def __aenter__(self) -> UntilDisconnect:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancellations = task.cancelling()
        self._watch = asyncio.create_task(self._listen())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self._watch.cancel()  # never awaited: this may run inside a cancelled scope
        if not self.gone:
            return False
        ours = self._task.uncancel() <= self._cancellations
        return ours and kind is not None and issubclass(kind, asyncio.CancelledError)

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        self._task.cancel()
