"""Every error a user can meet, as one tree.

    MLCError
      x BadRequest              the caller can fix it                         400
        + PromptTooLong         the prompt cannot fit the context             400
        + ModelNotFound         no such model is served here                  404
        + DuplicateRequest      the request id is already in use              409
      x Overloaded              the queue is full, try again later            503
      x EngineUnavailable       the engine is starting, stopping or dead      503
        + EngineDied            it died while the request was in flight       503
      x EngineFault             the engine failed on this one request         500
      x BadModel                the model folder cannot be used               start-up
      x BadConfig               the flags or the machine cannot be used       start-up

A message is one clear sentence that says what to do. `status_code` is what the web process answers,
`code` is OpenAI's machine-readable word, `param` names the request field at fault.
"""

from __future__ import annotations


class MLCError(Exception):
    """Root of the tree; catch this to catch everything this package raises on purpose."""

    status_code: int = 500
    type: str = "server_error"
    code: str | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code


def one_line(message: object) -> str:
    """The message for a terminal or a log: what would break the line or the terminal is escaped."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in str(message).strip()
    )


class BadRequest(MLCError, ValueError):
    """The request is wrong; `param` names the field."""

    status_code = 400
    type = "invalid_request_error"


class PromptTooLong(BadRequest):
    """The prompt does not fit the context window or the KV cache."""

    code = "context_length_exceeded"


class ModelNotFound(BadRequest):
    """The request names a model that is not served here."""

    status_code = 404
    code = "model_not_found"


class DuplicateRequest(BadRequest):
    """A live request already has this id."""

    status_code = 409
    code = "duplicate_request"


class Overloaded(MLCError):
    """Too many requests are waiting; the caller may try again."""

    status_code = 503
    type = "overloaded_error"
    code = "overloaded"


class EngineUnavailable(MLCError):
    """The engine is not able to take requests now."""

    status_code = 503
    type = "service_unavailable"
    code = "engine_unavailable"


class EngineDied(EngineUnavailable):
    """The engine process died while this request was in flight."""

    code = "engine_died"


class EngineFault(MLCError):
    """The engine failed on this request alone; others are untouched."""

    code = "engine_fault"


class BadModel(MLCError):
    """The model folder is missing, broken or of an unknown kind; ends start-up with exit code 1."""

    code = "bad_model"


class BadConfig(MLCError, ValueError):
    """A flag, an override or this machine cannot be used; ends start-up with exit code 1."""

    code = "bad_config"


WIRE_ERRORS: dict[str, type[MLCError]] = {
    kind.__name__: kind
    for kind in (
        BadRequest,
        PromptTooLong,
        ModelNotFound,
        DuplicateRequest,
        Overloaded,
        EngineUnavailable,
        EngineDied,
        EngineFault,
        BadModel,
        BadConfig,
    )
}
"""Names by which an error crosses the process border (see `protocol.messages.Failed`)."""
