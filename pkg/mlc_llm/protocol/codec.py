"""Messages to bytes and back: one encoder, one typed decoder per direction, nothing untyped.

A frame that is no message of the expected union raises `msgspec.ValidationError` or `DecodeError`.
"""

from __future__ import annotations

import msgspec

from mlc_llm.protocol.messages import FromEngine, ToEngine

_encoder = msgspec.msgpack.Encoder()
_to_engine: msgspec.msgpack.Decoder[ToEngine] = msgspec.msgpack.Decoder(ToEngine)
_from_engine: msgspec.msgpack.Decoder[FromEngine] = msgspec.msgpack.Decoder(FromEngine)


def encode(message: ToEngine | FromEngine) -> bytes:
    """Any message as one msgpack frame."""
    return _encoder.encode(message)


def decode_to_engine(frame: bytes | memoryview) -> ToEngine:
    """A frame that a client sent."""
    return _to_engine.decode(frame)


def decode_from_engine(frame: bytes | memoryview) -> FromEngine:
    """A frame that the engine sent."""
    return _from_engine.decode(frame)
