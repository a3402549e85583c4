"""Finds calls in a model's text: what is common to all formats.

A `Form` says at which markers calls begin and which parser reads them from there. Text in between
is content. Blanks around calls belong to them: models write calls on lines of their own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from mlc_llm.tools.events import (
    CallArguments,
    CallBegins,
    CallBreaks,
    CallEnds,
    Content,
    Event,
)
from mlc_llm.tools.json_scan import JsonScanner
from mlc_llm.tools.source import MAX_TAKEN, NotACall, Source, Waits, before_blanks, certain
from mlc_llm.tools.tool import Tool

MAX_CALLS = 128
"""Calls of one choice; what looks like one more is content."""


class Reading(Source):
    """The text of one choice and what it has said: what parsers of calls work with."""

    def __init__(self, tools: Sequence[Tool], max_calls: int, max_taken: int = MAX_TAKEN) -> None:
        super().__init__(max_taken)
        self.tools: Mapping[str, Tool] = {tool.name: tool for tool in tools}
        self.events: list[Event] = []
        self.num_calls = 0
        self.in_call = False
        """Whether a call has begun that has not ended."""
        self._max_calls = max_calls

    def know(self, name: str) -> None:
        """Raises NotACall for a tool that was not offered: nobody could answer the call."""
        if name not in self.tools or self.num_calls == self._max_calls:
            raise NotACall

    def begin(self, name: str) -> None:
        """Tell that a call begins. Raises NotACall for a tool that was not offered."""
        self.know(name)
        self.events.append(CallBegins(name))
        self.in_call = True

    def arguments(self, text: str) -> None:
        """Tell the next part of the arguments."""
        if text:
            self.events.append(CallArguments(text))

    def end(self) -> None:
        """Tell that the call is complete."""
        self.events.append(CallEnds())
        self.in_call = False
        self.num_calls += 1
        self.settle()

    def retell(self, call: Sequence[Event]) -> None:
        """Tell one call that was read elsewhere. Raises NotACall when it is one too many."""
        if self.num_calls == self._max_calls:
            raise NotACall
        self.num_calls += 1
        self.events += call
        self.settle()

    def json(self, told: Callable[[str], None] | None = None) -> Waits[str]:
        """Take one JSON value; its text as it was written, also told bit by bit.

        Raises NotACall where it breaks or the text ends.
        """
        scanner = JsonScanner()
        taken: list[str] = []
        while (yield from self.char()):
            count = scanner.scan(self.text, self.at) - self.at
            if count:
                taken.append(self.take(count))
                if told is not None:
                    told(taken[-1])
                if len(taken[-1]) < count:
                    raise NotACall
            if scanner.done:
                return "".join(taken)
            if scanner.broken:
                break
        raise NotACall

    def json_object(self, told: Callable[[str], None] | None = None) -> Waits[str]:
        """Take one JSON object, like `json`."""
        if (yield from self.char()) != "{":
            raise NotACall
        return (yield from self.json(told))


CallsParser = Callable[[Reading], Waits[None]]
"""Reads calls from the marker on, which has not been taken yet, up to their end, and tells them.

Takes at least one character. Raises NotACall where the text goes on otherwise; calls that have
ended stay told.
"""


class Form(Struct, frozen=True):
    """How to find calls. No marker may begin with another one, nor with what begins a line."""

    markers: Mapping[str, CallsParser]
    """Texts at which calls begin, wherever they are."""
    line_starts: str = ""
    """Characters (a class of `re`) that may begin calls at the beginning of a line."""
    names_start: bool = False
    """Whether the name of a tool with a parenthesis may as well."""
    bare: CallsParser | None = None
    """What reads them there."""


class CallReader:
    """The `Reader` of a form."""

    def __init__(
        self,
        form: Form,
        tools: Sequence[Tool],
        max_calls: int = MAX_CALLS,
        max_taken: int = MAX_TAKEN,
    ) -> None:
        """`max_taken`: characters that a call may have, with its markers."""
        self._form = form
        self._reading = Reading(tools, max_calls, max_taken)
        self._line_is_blank = True
        """Whether the text up to here ends with a line that has blanks only."""
        first = "[" + form.line_starts + (r"A-Za-z_" if form.names_start else "") + "]"
        lines = [rf"\n[ \t\r]*{first}"] if form.bare else []
        self._line_start = re.compile(rf"[ \t\r\n]*{first}") if form.bare else None
        self._start = re.compile("|".join([*map(re.escape, form.markers), *lines]))
        self._parser = self._read()
        next(self._parser)

    def feed(self, text: str) -> list[Event]:
        """See `Reader`."""
        self._reading.add(text)
        return self._advance()

    def finish(self) -> list[Event]:
        """See `Reader`."""
        self._reading.ended = True
        return self._advance()

    def _advance(self) -> list[Event]:
        next(self._parser, None)
        events = self._reading.events
        self._reading.events = []
        return events

    def _read(self) -> Waits[None]:
        yield
        while (parser := (yield from self._content())) is not None:
            calls_before = self._reading.num_calls
            broken = False
            try:
                yield from parser(self._reading)
            except NotACall:
                broken = True
            some = self._reading.num_calls > calls_before
            if broken or not some:
                self._give_back(at_least=0 if some else 1)
            self._reading.settle()
            if some and not broken:
                self._line_is_blank = True
                yield from self._drop_blanks()

    def _content(self) -> Waits[CallsParser | None]:
        """Tell plain text up to where calls may begin; blanks before that are taken."""
        source = self._reading
        while True:
            start, parser = self._find()
            if parser is not None:
                self._tell_up_to(before_blanks(source.text, source.at, start))
                source.take(start - source.at)
                return parser
            if source.ended:
                self._tell_up_to(len(source.text))
                return None
            self._tell_up_to(certain(source.text, source.at, self._form.markers))
            yield

    def _find(self) -> tuple[int, CallsParser | None]:
        """The first place where calls may begin."""
        text, at = self._reading.text, self._reading.at
        match = None
        if self._line_start is not None and self._line_is_blank:
            match = self._line_start.match(text, at)
        match = match or self._start.search(text, at)
        if match is None:
            return -1, None
        if match.group() in self._form.markers:
            return match.start(), self._form.markers[match.group()]
        return match.end() - 1, self._form.bare

    def _give_back(self, at_least: int) -> None:
        """Tell what was taken as the text it is; a marker too long to be taken is skipped."""
        text = self._reading.settle() or self._reading.skip(at_least)
        if self._reading.in_call:
            self._reading.in_call = False
            self._reading.events.append(CallBreaks(text))
            self._note(text)
        else:
            self._tell(text)

    def _tell_up_to(self, end: int) -> None:
        self._tell(self._reading.skip(end - self._reading.at))

    def _tell(self, text: str) -> None:
        if text:
            self._reading.events.append(Content(text))
            self._note(text)

    def _note(self, text: str) -> None:
        line = text.rpartition("\n")[2]
        blank = line.strip(" \t\r") == ""
        self._line_is_blank = blank and ("\n" in text or self._line_is_blank)

    def _drop_blanks(self) -> Waits[None]:
        source = self._reading
        while (yield from source.char()) in (" ", "\t", "\r", "\n"):
            source.skip(1)
