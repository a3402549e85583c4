r"""Reads grammars in the notation of llama.cpp, which xgrammar and so vLLM's users write too. Pure.

    root  ::= item ("," item){0,9}      rules by name; the answer is a `root`
    item  ::= "a" | [0-9a-f]+ | .?      texts, sets of characters, any character
    # the rest of a line is a remark

A line may end anywhere: a rule goes on up to the next name that is followed by `::=`. In texts and
sets `\n`, `\r`, `\t`, `\xHH`, `\uHHHH` and `\UHHHHHHHH` are characters, and so is `\` before any
that is no letter or digit. `grammar.gbnf_lark` writes what is read in another notation.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

from msgspec import Struct

MAX_DEPTH = 64
MAX_TIMES = 10_000


class Text(Struct, frozen=True):
    """These characters."""

    text: str


class Set(Struct, frozen=True):
    """One character from these ranges, both ends included; or one from none of them."""

    ranges: tuple[tuple[int, int], ...]
    is_negated: bool = False


class Ref(Struct, frozen=True):
    """What a rule says."""

    name: str


class Repeat(Struct, frozen=True):
    """`least` to `most` times; None: without end."""

    item: Node
    least: int
    most: int | None


class OneOf(Struct, frozen=True):
    """One of these sequences."""

    options: tuple[tuple[Node, ...], ...]


Node = Text | Set | Ref | Repeat | OneOf
Rules = dict[str, OneOf]

ANY = Set((), is_negated=True)
_TIMES = {"*": (0, None), "+": (1, None), "?": (0, 1)}
_TOKEN = re.compile(
    r"""(?P<blank>[ \t\r\n]+|\#[^\n]*)
    |(?P<rule>[A-Za-z][\w-]*)(?=[ \t]*::=)
    |(?P<name>[A-Za-z][\w-]*)
    |(?P<is>::=)
    |(?P<text>"(?:[^"\\]|\\.)*")
    |(?P<set>\[(?:[^\]\\]|\\.)*\])
    |(?P<times>\{\s*[0-9]{1,9}\s*(?:,\s*[0-9]{0,9}\s*)?\}|[*+?])
    |(?P<mark>[().|])""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_CHARACTER = re.compile(
    r"\\x(?P<x>[0-9A-Fa-f]{2})|\\u(?P<u>[0-9A-Fa-f]{4})|\\U(?P<U>[0-9A-Fa-f]{8})"
    r"|\\(?P<name>[nrt])|\\(?P<itself>[^0-9A-Za-z])|(?P<plain>[^\\])",
    re.DOTALL,
)
_DASH = -ord("-")
"""A dash between the ends of a range."""
_NAMED = {"n": "\n", "r": "\r", "t": "\t"}


def is_gbnf(text: str) -> bool:
    """Whether a grammar is in this notation; Lark's has one colon after a name."""
    return re.search(r"^[ \t]*[A-Za-z][\w-]*[ \t]*::=", text, re.MULTILINE) is not None


def read_gbnf(text: str) -> Rules:
    """The rules by name, `root` among them. Raises ValueError saying what is wrong and where."""
    rules = _Reader(text).rules()
    if "root" not in rules:
        raise ValueError("there is no rule `root`")
    for name, rule in rules.items():
        for other in references(rule):
            if other not in rules:
                raise ValueError(f"the rule `{name}` names `{other}`, which is not there")
    for name in rules.keys() - _ending(rules):
        raise ValueError(f"the rule `{name}` never ends: each of its options leads back to it")
    return rules


def _ending(rules: Rules) -> set[str]:
    """The rules that some text matches."""
    implications: list[tuple[str, set[str]]] = []

    def explain(name: str, one: OneOf) -> None:
        for option in one.options:
            needed: set[str] = set()
            implications.append((name, needed))
            for item in option:
                need(item, needed)

    def need(item: Node, needed: set[str]) -> None:
        match item:
            case Ref(name):
                needed.add(name)
            case Repeat(inner, least) if least > 0:
                need(inner, needed)
            case OneOf():
                name = f"({len(implications)}"  # no rule is called so
                needed.add(name)
                explain(name, item)

    for name, rule in rules.items():
        explain(name, rule)
    return following(implications)


def following(implications: Iterable[tuple[str, set[str]]]) -> set[str]:
    """The names that follow from others: each with what it follows from. In linear time."""
    left: list[tuple[str, set[str]]] = []
    users: dict[str, list[int]] = defaultdict(list)
    ready: list[str] = []
    for name, needed in implications:
        for other in needed:
            users[other].append(len(left))
        left.append((name, set(needed)))
        if not needed:
            ready.append(name)
    found: set[str] = set()
    while ready:
        name = ready.pop()
        if name in found:
            continue
        found.add(name)
        for index in users[name]:
            user, needed = left[index]
            needed.discard(name)
            if not needed:
                ready.append(user)
    return found


def references(node: Node) -> set[str]:
    """The rules that are named in it."""
    found: set[str] = set()
    left = [node]
    while left:
        match left.pop():
            case Ref(name):
                found.add(name)
            case Repeat(item):
                left.append(item)
            case OneOf(options):
                left += [item for option in options for item in option]
    return found


class _Reader:
    """A cursor over the tokens."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._kind = ""
        self._word = ""
        self._begin = 0
        self._depth = 0
        self._next()

    def rules(self) -> Rules:
        found: Rules = {}
        while self._kind:
            name = self._word
            if self._kind != "rule":
                raise self._wrong("a rule, such as `root ::= ...`, is due")
            if name in found:
                raise self._wrong(f"the rule `{name}` is there twice")
            self._next()
            self._next()  # ::=
            found[name] = self._one_of()
        return found

    def _one_of(self) -> OneOf:
        options = [self._sequence()]
        while self._word == "|" and self._kind == "mark":
            self._next()
            options.append(self._sequence())
        return OneOf(tuple(options))

    def _sequence(self) -> tuple[Node, ...]:
        items: list[Node] = []
        while self._kind and self._kind != "rule" and self._word not in ("|", ")"):
            item = self._item()
            if self._kind == "times":
                item = Repeat(item, *self._times())
            items.append(item)
        return tuple(items)

    def _item(self) -> Node:
        kind, word = self._kind, self._word
        if word == "(" and kind == "mark":
            return self._group()
        if kind == "text":
            item: Node = Text("".join(map(chr, self._characters(word[1:-1]))))
        elif kind == "set":
            item = self._set(word[1:-1])
        elif kind == "name":
            item = Ref(word)
        elif word == ".":
            item = ANY
        else:
            raise self._wrong("a text, a set, a name or a parenthesis is due")
        self._next()
        return item

    def _group(self) -> OneOf:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._wrong(f"more than {MAX_DEPTH} parentheses are open")
        self._next()
        inside = self._one_of()
        if self._word != ")":
            raise self._wrong("a closing parenthesis is due")
        self._depth -= 1
        self._next()
        return inside

    def _times(self) -> tuple[int, int | None]:
        word = self._word
        if word in _TIMES:
            self._next()
            return _TIMES[word]
        first, comma, last = word[1:-1].partition(",")
        least = int(first)
        most = (int(last) if last.strip() else None) if comma else least
        if max(least, most or 0) > MAX_TIMES or (most is not None and most < least):
            raise self._wrong(f"times must rise, up to {MAX_TIMES}")
        self._next()
        return least, most

    def _set(self, inside: str) -> Set:
        is_negated = inside.startswith("^")
        found: list[tuple[int, int]] = []
        codes = self._characters(inside[is_negated:], dashes=True)
        while codes:
            first = last = abs(codes.pop(0))
            if len(codes) > 1 and codes[0] == _DASH:
                last = abs(codes[1])
                del codes[:2]
            if last < first:
                raise self._wrong("the ends of a range are the wrong way round")
            found.append((first, last))
        if not found and not is_negated:
            raise self._wrong("the set is empty")
        return Set(tuple(found), is_negated)

    def _characters(self, text: str, *, dashes: bool = False) -> list[int]:
        """Code points; with `dashes` a dash that is not escaped is `_DASH`."""
        codes = []
        at = 0
        while at < len(text):
            found = _CHARACTER.match(text, at)
            if found is None:
                raise self._wrong(f"the escape {text[at : at + 2]} is not known")
            at = found.end()
            kind = found.lastgroup or ""
            value = found[kind]
            code = int(value, 16) if kind in "xuU" else ord(_NAMED.get(value, value))
            if kind == "plain":
                code = ord(value)
            if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
                raise self._wrong(f"{found[0]} is no character")
            codes.append(_DASH if dashes and kind == "plain" and value == "-" else code)
        return codes

    def _next(self) -> None:
        """To the next token that is no blank."""
        while True:
            self._begin = self._at
            if self._at == len(self._text):
                self._kind = self._word = ""
                return
            found = _TOKEN.match(self._text, self._at)
            if found is None:
                raise self._wrong("this cannot be read")
            self._at = found.end()
            if found.lastgroup != "blank":
                self._kind, self._word = found.lastgroup or "", found[0]
                return

    def _wrong(self, what: str) -> ValueError:
        line = self._text.count("\n", 0, self._begin) + 1
        near = self._text[self._begin : self._begin + 20].split("\n")[0]
        return ValueError(f"{what} (line {line}, before {near!r})")
