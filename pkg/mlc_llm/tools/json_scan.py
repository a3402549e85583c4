"""Where a JSON value ends in text that comes in pieces, and whether it is one.

A table of states by character, as RFC 8259 has the grammar, and a stack of the objects and arrays
that are open. Values are not built: their text is passed on as it was written.
"""

from __future__ import annotations

import re
from enum import IntEnum, auto

MAX_DEPTH = 64
_DIGITS = "0123456789"
_HEX = _DIGITS + "abcdefABCDEF"


class _At(IntEnum):
    VALUE = auto()
    FIRST_ITEM = auto()
    FIRST_KEY = auto()
    NEXT_KEY = auto()
    COLON = auto()
    AFTER_ITEM = auto()
    AFTER_MEMBER = auto()
    STRING = auto()
    ESCAPE = auto()
    HEX_4 = auto()
    HEX_3 = auto()
    HEX_2 = auto()
    HEX_1 = auto()
    KEY = auto()
    KEY_ESCAPE = auto()
    KEY_HEX_4 = auto()
    KEY_HEX_3 = auto()
    KEY_HEX_2 = auto()
    KEY_HEX_1 = auto()
    MINUS = auto()
    ZERO = auto()
    INTEGER = auto()
    POINT = auto()
    FRACTION = auto()
    E = auto()
    E_SIGN = auto()
    EXPONENT = auto()
    T = auto()
    TR = auto()
    TRU = auto()
    F = auto()
    FA = auto()
    FAL = auto()
    FALS = auto()
    N = auto()
    NU = auto()
    NUL = auto()
    # not places but what to do
    OPEN_OBJECT = auto()
    OPEN_ARRAY = auto()
    CLOSE = auto()
    END = auto()


def _to(chars: str, state: _At) -> dict[str, _At]:
    return dict.fromkeys(chars, state)


def _string(body: _At, escape: _At, end: _At) -> dict[_At, dict[str, _At]]:
    """The five states of a string that follow one another in `_At`, `body` first."""
    first_hex = escape + 1
    hexes = {_At(first_hex + i): _to(_HEX, _At(first_hex + i + 1)) for i in range(3)}
    return {
        body: {'"': end, "\\": escape},
        escape: _to('"\\/bfnrt', body) | {"u": _At(first_hex)},
        **hexes,
        _At(first_hex + 3): _to(_HEX, body),
    }


_BLANK = " \t\r\n"
_VALUE = {
    '"': _At.STRING,
    "-": _At.MINUS,
    "0": _At.ZERO,
    **_to(_DIGITS[1:], _At.INTEGER),
    "{": _At.OPEN_OBJECT,
    "[": _At.OPEN_ARRAY,
    "t": _At.T,
    "f": _At.F,
    "n": _At.N,
}
_EXPONENT = _to("eE", _At.E)
_NEXT: dict[_At, dict[str, _At]] = {
    _At.VALUE: _VALUE | _to(_BLANK, _At.VALUE),
    _At.FIRST_ITEM: _VALUE | {"]": _At.CLOSE} | _to(_BLANK, _At.FIRST_ITEM),
    _At.FIRST_KEY: {'"': _At.KEY, "}": _At.CLOSE} | _to(_BLANK, _At.FIRST_KEY),
    _At.NEXT_KEY: {'"': _At.KEY} | _to(_BLANK, _At.NEXT_KEY),
    _At.COLON: {":": _At.VALUE} | _to(_BLANK, _At.COLON),
    _At.AFTER_ITEM: {",": _At.VALUE, "]": _At.CLOSE} | _to(_BLANK, _At.AFTER_ITEM),
    _At.AFTER_MEMBER: {",": _At.NEXT_KEY, "}": _At.CLOSE} | _to(_BLANK, _At.AFTER_MEMBER),
    **_string(_At.STRING, _At.ESCAPE, _At.END),
    **_string(_At.KEY, _At.KEY_ESCAPE, _At.COLON),
    _At.MINUS: {"0": _At.ZERO} | _to(_DIGITS[1:], _At.INTEGER),
    _At.ZERO: {".": _At.POINT} | _EXPONENT,
    _At.INTEGER: {".": _At.POINT} | _to(_DIGITS, _At.INTEGER) | _EXPONENT,
    _At.POINT: _to(_DIGITS, _At.FRACTION),
    _At.FRACTION: _to(_DIGITS, _At.FRACTION) | _EXPONENT,
    _At.E: _to("+-", _At.E_SIGN) | _to(_DIGITS, _At.EXPONENT),
    _At.E_SIGN: _to(_DIGITS, _At.EXPONENT),
    _At.EXPONENT: _to(_DIGITS, _At.EXPONENT),
    _At.T: {"r": _At.TR},
    _At.TR: {"u": _At.TRU},
    _At.TRU: {"e": _At.END},
    _At.F: {"a": _At.FA},
    _At.FA: {"l": _At.FAL},
    _At.FAL: {"s": _At.FALS},
    _At.FALS: {"e": _At.END},
    _At.N: {"u": _At.NU},
    _At.NU: {"l": _At.NUL},
    _At.NUL: {"l": _At.END},
}
_NUMBER_ENDS = frozenset({_At.ZERO, _At.INTEGER, _At.FRACTION, _At.EXPONENT})
"""States in which a number is whole: the next character ends it without belonging to it."""
_IN_STRING = frozenset({_At.STRING, _At.KEY})
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')


class JsonScanner:
    """Scans one value of any kind, blanks before it included."""

    def __init__(self, max_depth: int = MAX_DEPTH) -> None:
        self.done = False
        self.broken = False
        """The next character cannot follow."""
        self._at = _At.VALUE
        self._open: list[_At] = []
        """Where to go on after each value inside the objects and arrays that are open."""
        self._max_depth = max_depth

    def scan(self, text: str, start: int) -> int:
        """Where the value ends in `text`, or all that is known of it so far, or breaks."""
        at = start
        while at < len(text) and not self.done:
            if self._at in _IN_STRING:
                match = _PLAIN.match(text, at)
                at = match.end() if match else at
                if at == len(text):
                    break
            move = _NEXT[self._at].get(text[at])
            if move is None and self._at in _NUMBER_ENDS:
                self._end_value()
            elif move is None or not self._go(move):
                self.broken = True
                break
            else:
                at += 1
        return at

    def _go(self, move: _At) -> bool:
        match move:
            case _At.OPEN_OBJECT | _At.OPEN_ARRAY:
                if len(self._open) == self._max_depth:
                    return False
                is_object = move is _At.OPEN_OBJECT
                self._open.append(_At.AFTER_MEMBER if is_object else _At.AFTER_ITEM)
                self._at = _At.FIRST_KEY if is_object else _At.FIRST_ITEM
            case _At.CLOSE:
                self._open.pop()
                self._end_value()
            case _At.END:
                self._end_value()
            case _:
                self._at = move
        return True

    def _end_value(self) -> None:
        if self._open:
            self._at = self._open[-1]
        else:
            self.done = True


def is_json(text: str) -> bool:
    """Whether all of `text` is one JSON value."""
    scanner = JsonScanner()
    text += "\n"
    end = scanner.scan(text, 0)
    return scanner.done and text[end:].strip() == ""


def is_json_object(text: str) -> bool:
    """Whether all of `text` is one JSON object."""
    return text.lstrip().startswith("{") and is_json(text)


def is_text(text: str) -> bool:
    """Whether there is no half of a character in it, as JSON's escapes can make them."""
    return not any("\ud800" <= char <= "\udfff" for char in text)
