"""Code that ends when its client goes away."""

from __future__ import annotations

import asyncio

import pytest

from mlc_api.disconnect import UntilDisconnect


class Client:
    """The receiving end of ASGI."""

    def __init__(self) -> None:
        self.left = asyncio.Event()

    async def receive(self) -> dict[str, str]:
        await self.left.wait()
        return {"type": "http.disconnect"}


async def test_a_body_that_ends_first_is_left_alone() -> None:
    client = Client()
    async with UntilDisconnect(client.receive) as watch:
        await asyncio.sleep(0)
    client.left.set()
    await asyncio.sleep(0)
    assert not watch.gone


async def test_a_disconnect_ends_the_body_and_nothing_else() -> None:
    client, closed = Client(), False
    async with UntilDisconnect(client.receive) as watch:
        client.left.set()
        try:
            await asyncio.Event().wait()
        finally:
            closed = True
    assert watch.gone
    assert closed
    await asyncio.sleep(0)  # the task goes on


async def test_a_cancellation_from_outside_passes_through() -> None:
    async def body() -> None:
        async with UntilDisconnect(Client().receive):
            await asyncio.Event().wait()

    task = asyncio.create_task(body())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_of_the_body_passes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        async with UntilDisconnect(Client().receive):
            _ = 1 / 0
