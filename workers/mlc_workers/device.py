"""Which device to serve on, and why."""

from __future__ import annotations

from typing import NamedTuple

from mlc_llm.errors import BadConfig

KINDS = ("cpu", "cuda", "rocm", "metal", "vulkan", "opencl")
"""What MLC LLM calls them."""


class Device(NamedTuple):
    """A device, and the sentence that is printed about it."""

    kind: str
    decision: str


def choose_device(wanted: str) -> Device:
    """`wanted` is "auto", a kind, or a kind and a number ("cuda:0"). Raises `BadConfig`."""
    if wanted == "auto":
        return Device("cpu", "device = cpu: the only kind that this version runs on")
    kind, _, number = wanted.partition(":")
    if kind not in KINDS or (number and not number.isdecimal()):
        known = ", ".join(KINDS)
        raise BadConfig(f"device {wanted!r} is unknown; use auto or one of {known}")
    if kind != "cpu":
        raise BadConfig(
            f"device {wanted!r} is not available: this version runs on cpu; use --device auto"
        )
    if int(number or 0):
        raise BadConfig(f"device {wanted!r} does not exist: there is one cpu; use --device cpu")
    return Device("cpu", "device = cpu: as asked for")
