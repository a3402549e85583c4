"""Reading a request's body: bounded in size and in time, whatever its content type says."""

from __future__ import annotations

import asyncio
from typing import Any

from litestar import Request
from litestar.exceptions import InternalServerException

from mlc_api.errors import BodyTooSlow


async def read_body(request: Request[Any, Any, Any], seconds: float) -> bytes:
    """The whole body. Raises `BodyTooSlow`; the size limit is the application's."""
    try:
        async with asyncio.timeout(seconds):
            return await request.body()
    except TimeoutError:
        raise BodyTooSlow(f"The request body did not arrive within {seconds:g} seconds.") from None
    except InternalServerException:
        raise BodyTooSlow("The client disconnected before its request was complete.") from None
