"""Clients that would like to phone home, kept on loopback."""

from __future__ import annotations

import socket
from typing import Any

import pytest

QUIET = {
    "LANGSMITH_TRACING": "false",
    "LANGCHAIN_TRACING_V2": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else importing it fetches a list of prices
    "LITELLM_MODE": "PRODUCTION",  # else importing it reads .env files
    "HF_HUB_OFFLINE": "1",
    "NO_PROXY": "127.0.0.1,localhost",
}
"""Switches off the clients' telemetry and downloads; set it before they are loaded."""

LOOPBACK = ("127.0.0.1", "localhost", "::1", None)


def stay_on_loopback(patch: pytest.MonkeyPatch) -> None:
    """From now on looking up any other host's address fails the test that does it."""
    real = socket.getaddrinfo

    def lookup(host: Any, *rest: Any, **more: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        assert name in LOOPBACK, f"something asked for the address of {name}"
        return real(host, *rest, **more)

    patch.setattr(socket, "getaddrinfo", lookup)
