"""Runs the Jinja of checkpoints: no access to anything outside, and bounded work.

A template sees its variables and the functions here, nothing else: no files, no clock, no Python
objects. What it may do is a list of what chat templates use; the rest is refused when the template
is compiled, or when it is reached.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any, NoReturn

from jinja2 import nodes, pass_context
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.utils import Namespace

from phi3svc.text.budget import Budget, check_numbers
from phi3svc.text.template_bounds import bounded
from phi3svc.text.template_filters import (
    BUDGET_KEY,
    FILTERS,
    OPERATORS,
    budget_of,
    join_texts,
    replace_text,
    scan_text,
)

UNITS_PER_CALL = 32
MAX_EXPONENT = 64

_STR_METHODS = """
capitalize casefold count endswith find index isalnum isalpha isdecimal isdigit islower isnumeric
isspace istitle isupper lower partition removeprefix removesuffix split splitlines startswith
swapcase title upper
"""
_LINEAR_METHODS = frozenset(_STR_METHODS.split())
# Python's search from the right has no bound that is linear, as that from the left has.
_SCANS = frozenset({"lstrip", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "strip"})
_DICT_METHODS = frozenset({"get", "items", "keys", "values"})
_JINJA_ARGUMENTS = frozenset({"_loop_vars", "_block_vars"})  # which it gives to every call
_LOOP_METHODS = frozenset({"cycle", "changed"})


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """Compiles and runs templates as transformers does, within a budget."""

    intercepted_binops = frozenset({"+", "-", "*", "**", "/", "//", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # folding constants would work outside any budget
            finalize=_print,
            extensions=[loopcontrols, _GenerationBlock],
        )
        self.filters = {**FILTERS, **OPERATORS}
        self.tests["lower"] = lambda value: isinstance(value, str) and value.islower()
        self.tests["upper"] = lambda value: isinstance(value, str) and value.isupper()
        self._functions = {
            "raise_exception": _raise_exception,
            "range": safe_range,
            "namespace": Namespace,
        }
        self.globals = dict(self._functions)

    def compile_chat(self, source: str) -> ChatProgram:
        """Raises jinja2's TemplateError, or what Python's compiler raises, for a bad template."""
        tree = self.parse(source)
        return ChatProgram(self, bounded(tree))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        budget = budget_of(__context)
        budget.spend(UNITS_PER_CALL)
        if isinstance(__obj, types.BuiltinMethodType):
            own = {key: kwargs[key] for key in kwargs.keys() - _JINJA_ARGUMENTS}
            return _call_method(budget, __obj, args, own)
        if isinstance(__obj, types.MethodType):  # a loop's: `changed` compares
            budget.compare(*args)
        if (
            isinstance(__obj, Macro | Undefined)  # undefined ones raise what is missing
            or any(__obj is function for function in __self._functions.values())
            or (
                isinstance(__obj, types.MethodType)
                and isinstance(__obj.__self__, LoopContext)
                and __obj.__name__ in _LOOP_METHODS
            )
        ):
            return super().call(__context, __obj, *args, **kwargs)
        raise SecurityError(f"a {type(__obj).__name__} cannot be called")

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        budget = budget_of(context)
        if operator == "%" and isinstance(left, str):
            raise SecurityError("formatting with % is not supported; use ~")
        check_numbers(left, right)
        if operator == "**" and isinstance(right, int | float) and abs(right) > MAX_EXPONENT:
            raise SecurityError(f"an exponent above {MAX_EXPONENT}")
        if operator == "*":
            for count, value in ((left, right), (right, left)):
                if isinstance(count, int) and isinstance(value, str | list | tuple):
                    budget.spend(max(count, 0) * budget.measure(value))
        elif operator == "+":
            for value in (left, right):
                if isinstance(value, str):
                    budget.spend(len(value))
                elif isinstance(value, list | tuple):
                    budget.measure(value)
        return super().call_binop(context, operator, left, right)


class ChatProgram:
    """A compiled template."""

    def __init__(self, environment: ChatEnvironment, tree: nodes.Template) -> None:
        self._template = environment.from_string(tree)

    def run(self, variables: Mapping[str, object], units: int) -> str:
        """The text it prints. Raises TemplateError, or what Python raises, for bad variables."""
        return self._template.render({**variables, BUDGET_KEY: Budget(units)})


class _GenerationBlock(Extension):
    """`{% generation %}`, which marks the assistant's words for training: it prints its body."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=lineno)


@pass_context
def _print(context: Context, value: object) -> str:
    return budget_of(context).text(value)


def _raise_exception(message: object) -> NoReturn:
    raise TemplateError(message if isinstance(message, str) else "refused")


def _call_method(budget: Budget, method: Any, args: Any, kwargs: Any) -> Any:
    owner, name = method.__self__, method.__name__
    # Each of many prefixes is compared; a long key is hashed.
    budget.compare(*args, *kwargs.values())
    if isinstance(owner, str):
        if name == "replace":
            return replace_text(budget, owner, *args, **kwargs)
        if name == "join":
            return join_texts(budget, owner, *args, **kwargs)
        if name in _SCANS:
            return scan_text(budget, method, owner, *args, **kwargs)
        if name in _LINEAR_METHODS:
            budget.spend(2 * len(owner))
            return method(*args, **kwargs)
    elif isinstance(owner, dict) and name in _DICT_METHODS:
        return method(*args, **kwargs)
    raise SecurityError(f"{type(owner).__name__}.{name} is not supported")
