"""Where the server listens, and what it says when it cannot."""

from __future__ import annotations

import socket

import pytest

from mlc_api.listener import open_listener
from mlc_llm.errors import BadConfig


@pytest.mark.parametrize(
    ("host", "family"), [("127.0.0.1", socket.AF_INET), ("0.0.0.0", socket.AF_INET)]
)
def test_an_address_of_this_machine_is_listened_on(host: str, family: int) -> None:
    with open_listener(host, 0) as listener:
        assert listener.family == family
        assert listener.getsockname()[0] == host


def test_an_address_of_ipv6_is_listened_on() -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    with open_listener("::1", 0) as listener:
        assert listener.getsockname()[0] == "::1"


@pytest.mark.parametrize("host", ["", "a" * 300, "a\0b", "192.0.2.1"])
def test_an_address_that_cannot_be_had_is_refused_in_a_sentence(host: str) -> None:
    with pytest.raises(BadConfig, match="cannot listen on "):
        open_listener(host, 0)


def test_what_to_change_is_the_flag_at_fault() -> None:
    with pytest.raises(BadConfig, match="choose another --host"):
        open_listener("192.0.2.1", 0)
    with (
        open_listener("127.0.0.1", 0) as taken,
        pytest.raises(BadConfig, match="choose another --port"),
    ):
        open_listener("127.0.0.1", taken.getsockname()[1])
