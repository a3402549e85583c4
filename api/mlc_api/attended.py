"""The frame of every answer: given up when its client goes away, measured however it ends."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from litestar.types import Receive

from mlc_api.disconnect import UntilDisconnect
from mlc_api.measures import Measured


class StreamFailed(Exception):
    """The answer failed after it had begun, and the client has been told; `__cause__` is why."""


@asynccontextmanager
async def attended(measured: Measured, receive: Receive) -> AsyncGenerator[None]:
    """The block in which an answer is given. It lets `StreamFailed` go no further."""
    watch = UntilDisconnect(receive)
    outcome: BaseException | None = None
    try:
        async with watch:
            yield
    except StreamFailed as failed:
        outcome = failed.__cause__
    except BaseException as error:
        outcome = error
        raise
    finally:
        measured.ended(outcome, gone=watch.gone)
