"""A Jinja environment that cannot be used against the server: no side effects, bounded work.

Templates come with the model, messages with the request, and either may be made to hurt. Code is
out of reach (Jinja's immutable sandbox), and whatever can be repeated or makes a value pays from a
budget with a deadline (`budget`): turns of loops, calls, filters, tests, operators, literals. The
output has a size. Rendering is plain Python: give it to a thread.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from mlc_llm.conversation_template.budget import (
    Budget,
    OutOfBudget,
    current,
    listed,
    pay,
    pay_before,
    pay_format,
    pay_product,
)

MAX_OUTPUT_CHARACTERS = 16 << 20
MAX_DATE_FORMAT = 256
TICK, MADE, JOINED = "tick ", "made ", "joined "
"""Filters of our own; no template can write their names, nor put others in their place."""
REFUSED_FILTERS = (
    "batch", "center", "filesizeformat", "pprint", "random", "slice", "sum", "truncate", "urlize",
    "wordwrap", "xmlattr",
)  # fmt: skip
"""Made for pages, and able to make much of little; no chat template is known to need them."""
_SURROUNDINGS = (jinja2.Environment, Context, nodes.EvalContext)


class TemplateRefused(Exception):
    """The template itself refused the messages, by `raise_exception`."""


class _Generation(Extension):
    """Templates may mark the assistant's text for training; the mark means nothing here."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        parser.stream.expect("name:generation")
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Quiet(Namespace):
    """A namespace that does not write out what it holds, and so pays for none of it."""

    def __repr__(self) -> str:
        return "<Namespace>"


def _concat(pieces: Iterable[str]) -> str:
    """The text of a macro or a block; a piece may stand in it many times."""
    pieces = list(pieces)
    current.get().spend(sum(map(len, pieces)))
    return "".join(pieces)


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox with a price for everything that makes a value."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})
    concat = staticmethod(_concat)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if operator == "**" and not (numbers and abs(left) < 1e6 and abs(right) < 64):
            raise OutOfBudget
        if operator == "*":
            pay_product(left, right)
        if operator == "%" and isinstance(left, str | bytes):
            pay_format(left, right)
        return pay(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        method = getattr(__obj, "__wrapped__", __obj)
        owner = getattr(method, "__self__", None)
        if isinstance(owner, str | bytes | int):
            args = tuple(listed(args))
            pay_before(method.__name__, (owner, *args, *kwargs.values()))
        current.get().tick()
        return pay(super().call(__context, __obj, *args, **kwargs))


def _paid(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter or a test that pays for each use."""

    @wraps(function)
    def paying(*args: Any, **kwargs: Any) -> Any:
        current.get().tick()
        if name == "join":
            args = tuple(listed(args))
        values = [value for value in args if not isinstance(value, _SURROUNDINGS)]
        pay_before(name, [*values, *kwargs.values()])
        return pay(function(*args, **kwargs))

    return paying


def environment() -> jinja2.Environment:
    """The environment in which Hugging Face's chat templates are meant to run."""
    env = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    for name in REFUSED_FILTERS:
        del env.filters[name]
    env.filters["tojson"] = _tojson
    used: tuple[dict[str, Any], ...] = (env.filters, env.tests)
    for functions in used:
        for name in list(functions):
            functions[name] = _paid(name, functions[name])
    env.filters |= {TICK: lambda _: current.get().tick(), MADE: pay, JOINED: _joined}
    del env.globals["lipsum"]
    env.globals["namespace"] = _Quiet
    env.globals["raise_exception"] = _refuse
    env.globals["strftime_now"] = _strftime_now
    return env


def compile_template(source: str) -> Callable[[dict[str, Any]], str]:
    """A function from a template's variables to its text.

    Raises jinja2.TemplateError here for what is not a template. The function raises
    TemplateRefused, OutOfBudget, or whatever a template's expressions can raise.
    """
    env = environment()
    tree = _Prices().visit(env.parse(source))
    for body in _repeated(tree):
        body.insert(0, nodes.Output([_filtered(nodes.Const(""), TICK)]))
    tree.set_lineno(1).set_environment(env)
    template = jinja2.Template.from_code(env, env.compile(tree), env.make_globals(None))

    def render(variables: dict[str, Any]) -> str:
        pieces: list[str] = []
        size = 0
        before = current.set(Budget())
        try:
            for piece in template.generate(**variables):
                size += len(piece)
                if size > MAX_OUTPUT_CHARACTERS:
                    raise OutOfBudget
                pieces.append(piece)
        finally:
            current.reset(before)
        return "".join(pieces)

    return render


class _Prices(NodeTransformer):
    """Puts a price on `~` and on literals, which no environment can intercept."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        return _filtered(nodes.List([self.visit(operand) for operand in node.nodes]), JOINED)

    def visit_List(self, node: nodes.List) -> nodes.Node:
        return _filtered(self.generic_visit(node), MADE)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        return _filtered(self.generic_visit(node), MADE)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        inside = self.generic_visit(node)
        return _filtered(inside, MADE) if node.ctx == "load" else inside


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None)


def _joined(operands: list[object]) -> str:
    """The operator `~`."""
    return "".join([pay(str(operand)) for operand in operands])


def _repeated(tree: nodes.Template) -> list[list[nodes.Node]]:
    """The parts of a template that may run more than once."""
    loops = [loop.body for loop in tree.find_all(nodes.For)]
    return loops + [macro.body for macro in tree.find_all(nodes.Macro)]


def _refuse(message: str) -> NoReturn:
    raise TemplateRefused(message)


def _strftime_now(form: str) -> str:
    if len(form) > MAX_DATE_FORMAT:
        raise OutOfBudget
    return time.strftime(form)


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
