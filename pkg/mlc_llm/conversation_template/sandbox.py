"""A Jinja environment that cannot be used against the server: no side effects, bounded work.

Templates come with the model, messages with the request, and either may be made to hurt. Code is
out of reach (Jinja's immutable sandbox), every turn of a loop and every call of a macro pays from
a budget with a deadline, and the output has a size. Rendering is plain Python: give it to a thread.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_OUTPUT_CHARACTERS = 16 << 20
MAX_STEPS = 5_000_000
MAX_SECONDS = 5.0
MAX_BUILT_CHARACTERS = 256 << 20
"""Of all strings and lists that operators make."""
_TICK, _SPEND, _JOINED = "budget_tick", "budget_spend", "budget_joined"


class TemplateRefused(Exception):
    """The template itself refused the messages, by `raise_exception`."""


class OutOfBudget(Exception):
    """Rendering took too many steps, too long or too much space."""


class Budget:
    """What one rendering may cost. The clock starts when it is made."""

    def __init__(self, *, max_steps: int = MAX_STEPS, max_seconds: float = MAX_SECONDS) -> None:
        self._steps = max_steps
        self._characters = MAX_BUILT_CHARACTERS
        self._deadline = time.monotonic() + max_seconds

    def tick(self) -> str:
        """Pay for one step; shows as nothing in the output."""
        self._steps -= 1
        if self._steps < 0 or (self._steps & 0xFF == 0 and time.monotonic() > self._deadline):
            raise OutOfBudget
        return ""

    def joined(self, *operands: object) -> str:
        """The operator `~`, paid for by what it makes."""
        text = "".join(map(str, operands))
        self.spend(len(text))
        return text

    def spend(self, size: int) -> None:
        """Pay for so many characters or elements of a value."""
        self._characters -= size
        if self._characters < 0:
            raise OutOfBudget


class _Generation(Extension):
    """Templates may mark the assistant's text for training; the mark means nothing here."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        parser.stream.expect("name:generation")
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(ImmutableSandboxedEnvironment):
    """Operators whose result is larger than their operands, and so may grow without end."""

    intercepted_binops = frozenset({"+", "*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if operator == "**" and not (numbers and abs(left) < 1e6 and abs(right) < 64):
            raise OutOfBudget
        if operator == "+" and isinstance(left, str | list | tuple):
            context[_SPEND](
                len(left) + (len(right) if isinstance(right, str | list | tuple) else 0)
            )
        if operator == "*" and not numbers:
            sequence: Any = right if isinstance(left, int) else left
            times = left if isinstance(left, int) else right
            if not isinstance(times, int):
                raise OutOfBudget
            context[_SPEND](len(sequence) * max(times, 0))
        return super().call_binop(context, operator, left, right)


def environment() -> jinja2.Environment:
    """The environment in which Hugging Face's chat templates are meant to run."""
    env = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    env.filters["tojson"] = _tojson
    env.globals["raise_exception"] = _refuse
    env.globals["strftime_now"] = time.strftime
    return env


def compile_template(source: str) -> Callable[[dict[str, Any]], str]:
    """A function from a template's variables to its text.

    Raises jinja2.TemplateError here for what is not a template. The function raises
    TemplateRefused, OutOfBudget, or whatever a template's expressions can raise.
    """
    env = environment()
    tree = env.parse(source)
    for body in _repeated(tree):
        call = nodes.Call(nodes.Name(_TICK, "load"), [], [], None, None)
        body.insert(0, nodes.Output([call]))
    tree = _Joins().visit(tree)
    tree.set_lineno(1).set_environment(env)
    template = jinja2.Template.from_code(env, env.compile(tree), env.make_globals(None))

    def render(variables: dict[str, Any]) -> str:
        pieces: list[str] = []
        size = 0
        budget = Budget()
        own = {_TICK: budget.tick, _SPEND: budget.spend, _JOINED: budget.joined}
        for piece in template.generate(**variables, **own):
            size += len(piece)
            if size > MAX_OUTPUT_CHARACTERS:
                raise OutOfBudget
            pieces.append(piece)
        return "".join(pieces)

    return render


class _Joins(NodeTransformer):
    """Puts a call that pays in the place of every `~`, which no environment can intercept."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        operands = [self.visit(operand) for operand in node.nodes]
        return nodes.Call(nodes.Name(_JOINED, "load"), operands, [], None, None)


def _repeated(tree: nodes.Template) -> list[list[nodes.Node]]:
    """The parts of a template that may run more than once."""
    loops = [loop.body for loop in tree.find_all(nodes.For)]
    return loops + [macro.body for macro in tree.find_all(nodes.Macro)]


def _refuse(message: str) -> NoReturn:
    raise TemplateRefused(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is, not made safe for HTML as Jinja's own filter does."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
