"""The API key: every route asks for it unless the route itself says that it is open.

A guard runs on the route that was chosen, so no second reading of the path can disagree with it.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import Any

from litestar.connection import ASGIConnection
from litestar.handlers.base import BaseRouteHandler
from litestar.types import Guard

from mlc_api.errors import Unauthorized

OPEN: dict[str, Any] = {"open": True}
"""`opt` of a route that anybody may call."""


def require_key(api_keys: Sequence[str]) -> Guard:
    """Lets through open routes, and any of the keys in `Authorization: Bearer KEY`.

    Where there is no such header, `X-Api-Key: KEY` will do.
    """
    expected = [key.encode() for key in api_keys]

    def guard(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        if not handler.opt.get("open") and not _has_key(connection, expected):
            raise Unauthorized(
                "Incorrect API key provided, or none; send 'Authorization: Bearer KEY'."
            )  # OpenAI's first words, by which gateways know it

    return guard


def _has_key(connection: ASGIConnection[Any, Any, Any, Any], expected: Sequence[bytes]) -> bool:
    """Takes as long whichever key it is, and whether it is one. Two headers are none."""
    headers = connection.scope["headers"]
    found = [value for name, value in headers if name == b"authorization"]
    if not found:
        found = [b"bearer " + value for name, value in headers if name == b"x-api-key"]
    if len(found) != 1:
        return False
    scheme, _, key = found[0].partition(b" ")
    matches = [hmac.compare_digest(key.strip(), known) for known in expected]
    return scheme.lower() == b"bearer" and any(matches)
