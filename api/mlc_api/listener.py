"""The listening socket, opened before anything slow so that a taken port is known at once."""

from __future__ import annotations

import errno
import socket

from mlc_llm.errors import BadConfig

BACKLOG = 2048
"""Connections that may wait to be accepted."""


def open_listener(host: str, port: int) -> socket.socket:
    """A listening TCP socket. Raises `BadConfig` when the address cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise BadConfig(f"cannot listen on {host!r}: {error.strerror}") from None
    except ValueError:  # of the codec for international names, or a NUL
        raise BadConfig(f"cannot listen on {host!r}: this is not the name of a machine") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        flag = "--host" if error.errno == errno.EADDRNOTAVAIL else "--port"
        raise BadConfig(
            f"cannot listen on {host} port {port}: {error.strerror}; choose another {flag}"
        ) from None
    listener.setblocking(False)
    return listener
