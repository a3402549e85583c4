"""Reading a request's body: bounded in size and in time, whatever its content type says."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from litestar import Request
from litestar.exceptions import InternalServerException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge

from mlc_api.errors import BodyEncoded, BodyTooSlow

LINGER_SECONDS = 5.0
"""How long a body that is too large is read, and thrown away, before the answer."""


async def read_body(request: Request[Any, Any, Any], seconds: float) -> bytes:
    """The whole body. Raises `BodyTooSlow`, `BodyEncoded`; the size limit is the application's."""
    if request.headers.get("content-encoding", "identity").strip().lower() not in ("identity", ""):
        raise BodyEncoded("The request body is compressed; send it without `Content-Encoding`.")
    try:
        async with asyncio.timeout(seconds):
            return await request.body()
    except RequestEntityTooLarge:
        await _discard_rest(request)
        raise
    except TimeoutError:
        raise BodyTooSlow(f"The request body did not arrive within {seconds:g} seconds.") from None
    except InternalServerException:
        raise BodyTooSlow("The client disconnected before its request was complete.") from None


async def _discard_rest(request: Request[Any, Any, Any]) -> None:
    """Read on for a while: a client that is still sending would see a reset, not the answer."""
    if "expect" in request.headers:
        return  # it waits for leave to send, which it will not get
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            while (await request.receive()).get("more_body"):
                pass
