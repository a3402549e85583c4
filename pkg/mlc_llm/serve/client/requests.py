"""Which requests of this client the engine still knows, and which stream hears of each.

A request stays here from its `Submit` to its `Finished` or `Failed`, also when nobody listens any
more: its id may not be used again before, or the end of the old one would be taken for the end of
the new one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from mlc_llm.errors import WIRE_ERRORS, DuplicateRequest, EngineFault, MLCError
from mlc_llm.protocol.messages import Delta, Finished, StepOutput
from mlc_llm.serve.client.stream import Stream


class LiveRequests:
    """Request ids, streams, and who was aborted already."""

    def __init__(self, send_abort: Callable[[str, int], None]) -> None:
        """`send_abort` is given a request's id and its place among what the engine was sent."""
        self._send_abort = send_abort
        self._streams: dict[str, Stream | None] = {}
        self._places: dict[str, int] = {}
        self._aborted: set[str] = set()

    def __len__(self) -> int:
        return len(self._streams)

    def open(self, request_ids: Sequence[str], place: int = 0) -> Stream:
        """One stream for these requests, all or none; raises DuplicateRequest.

        `place`: how many commands have been sent when they have.
        """
        seen: set[str] = set()
        for request_id in request_ids:
            if request_id in self._streams or request_id in seen:
                raise DuplicateRequest(
                    f"A live request is called {request_id!r} already: choose another id."
                )
            seen.add(request_id)
        stream = Stream(request_ids, self._give_up)
        self._streams.update(dict.fromkeys(request_ids, stream))
        self._places.update(dict.fromkeys(request_ids, place))
        return stream

    def abort(self, request_id: str) -> None:
        """Abort it once, if it lives."""
        if request_id in self._streams and request_id not in self._aborted:
            self._aborted.add(request_id)
            self._send_abort(request_id, self._places[request_id])

    def dispatch(self, output: StepOutput) -> None:
        """Give every stream its part of one frame, in one piece."""
        news: dict[Stream, tuple[list[Delta], list[Finished]]] = {}
        for delta in output.deltas:
            stream = self._streams.get(delta.request_id)
            if stream is not None:
                news.setdefault(stream, ([], []))[0].append(delta)
        for finished in output.finished:
            stream = self._forget(finished.request_id)
            if stream is not None:
                news.setdefault(stream, ([], []))[1].append(finished)
        for stream, (deltas, ends) in news.items():
            stream.push(deltas, ends)
        for failed in output.failed:
            stream = self._forget(failed.request_id)
            if stream is not None:
                error = error_of(failed.kind, failed.message, failed.param)
                stream.fail(error, [failed.request_id])

    def fail_all(self, error: MLCError) -> None:
        """The engine will say nothing more."""
        streams = self._streams
        self._streams = {}
        self._places.clear()
        self._aborted.clear()
        for request_id, stream in streams.items():
            if stream is not None:
                stream.fail(error, [request_id])

    def _forget(self, request_id: str) -> Stream | None:
        self._aborted.discard(request_id)
        self._places.pop(request_id, None)
        return self._streams.pop(request_id, None)

    def _give_up(self, request_ids: Iterable[str]) -> None:
        for request_id in request_ids:
            self.abort(request_id)
            if request_id in self._streams:
                self._streams[request_id] = None


def error_of(kind: str, message: str, param: str | None = None) -> MLCError:
    """The error that crossed the process border as a name, a sentence and a field."""
    return WIRE_ERRORS.get(kind, EngineFault)(message, param=param)
