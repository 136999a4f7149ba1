"""The filters a chat template may use, each within the budget of its render."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from jinja2 import filters, pass_context
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context

from phi3svc.text.budget import Budget

# Where a render keeps its budget. No template can name it.
BUDGET_KEY = "the budget of this render"
MAX_INDENT = 64

Function = Callable[..., Any]


def budget_of(context: Context) -> Budget:
    """The budget of the render that `context` belongs to."""
    budget: Budget = context.parent[BUDGET_KEY]
    return budget


def replace_text(budget: Budget, text: str, old: str, new: str, count: int = -1) -> str:
    """`text.replace(old, new, count)`."""
    budget.spend(len(text))
    num_found = text.count(old)
    if count >= 0:
        num_found = min(num_found, count)
    budget.spend(num_found * len(new))
    return text.replace(old, new, count)


def join_texts(budget: Budget, separator: str, texts: Iterable[str]) -> str:
    """`separator.join(texts)`."""
    items = []
    for item in texts:
        budget.spend(1 + len(item) + len(separator))
        items.append(item)
    return separator.join(items)


def scan_text(budget: Budget, method: Function, text: str, *args: Any, **kwargs: Any) -> Any:
    """`method`, which may look at all of an argument for each character of `text`."""
    sizes = (len(value) for value in (*args, *kwargs.values()) if isinstance(value, str))
    budget.spend(len(text) * (1 + sum(sizes)))
    return method(*args, **kwargs)


def _of_text(function: Function) -> Function:
    """A filter whose result is about as long as the text it gets."""

    @pass_context
    def apply(context: Context, value: object, *args: Any, **kwargs: Any) -> Any:
        return function(budget_of(context).text(value), *args, **kwargs)

    return apply


def _of_scalar(function: Function) -> Function:
    """A filter that reads a text, if it gets one, once."""

    @pass_context
    def apply(context: Context, value: object, *args: Any, **kwargs: Any) -> Any:
        budget_of(context).compare(value)
        return function(value, *args, **kwargs)

    return apply


def _of_values(function: Function) -> Function:
    """A filter of jinja2 that takes the context and passes over values once.

    It may compare each value with each argument, or look for it in there.
    """

    @pass_context
    def apply(context: Context, value: Iterable[Any], *args: Any, **kwargs: Any) -> Iterator[Any]:
        budget = budget_of(context)

        def compared() -> Iterator[Any]:
            for item in budget.iterate(value):
                budget.compare(item)
                for argument in args:
                    budget.search(argument)
                yield item

        return budget.iterate(function(context, compared(), *args, **kwargs))

    return apply


def _of_plain_data(function: Function) -> Function:
    """A filter of jinja2 that takes the environment and compares values with each other."""

    @pass_context
    def apply(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        budget = budget_of(context)
        value = value if isinstance(value, dict) else list(budget.iterate(value))
        budget.spend(16 * budget.measure(value))
        return function(context.environment, value, *args, **kwargs)

    return apply


@pass_context
def _join(context: Context, value: Iterable[Any], d: str = "", attribute: Any = None) -> str:
    budget = budget_of(context)
    if attribute is not None:
        value = map(filters.make_attrgetter(context.environment, attribute), value)
    return join_texts(budget, budget.text(d), map(budget.text, budget.iterate(value)))


@pass_context
def _trim(context: Context, value: object, chars: str | None = None) -> str:
    budget = budget_of(context)
    text = budget.text(value)
    stripped: str = scan_text(budget, text.strip, text, chars)
    return stripped


@pass_context
def _list(context: Context, value: Iterable[Any]) -> list[Any]:
    values = list(budget_of(context).iterate(value))
    budget_of(context).measure(values)
    return values


@pass_context
def _replace(context: Context, value: object, old: str, new: str, count: int | None = None) -> str:
    budget = budget_of(context)
    text = budget.text(value)
    return replace_text(
        budget, text, budget.text(old), budget.text(new), -1 if count is None else count
    )


@pass_context
def _indent(
    context: Context, value: object, width: int | str = 4, first: bool = False, blank: bool = False
) -> str:
    budget = budget_of(context)
    text = budget.text(value)
    width_len = len(width) if isinstance(width, str) else width
    if width_len > MAX_INDENT:
        raise SecurityError(f"indent: a width above {MAX_INDENT}")
    budget.spend(max(width_len, 0) * (1 + text.count("\n")))
    return filters.do_indent(text, width, first, blank)


@pass_context
def _tojson(
    context: Context,
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # As transformers has it: without jinja2's escapes for HTML.
    budget = budget_of(context)
    budget.measure(value)
    if indent is not None and indent > MAX_INDENT:
        raise SecurityError(f"tojson: an indent above {MAX_INDENT}")
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    return join_texts(budget, "", encoder.iterencode(value))


@pass_context
def _reverse(context: Context, value: Any) -> Any:
    budget = budget_of(context)
    return budget.text(value)[::-1] if isinstance(value, str) else budget.iterate(reversed(value))


# Names of the operators and statements below are no identifiers, so templates cannot write them.


@pass_context
def _concatenate(context: Context, first: object, *others: object) -> str:
    budget = budget_of(context)
    return join_texts(budget, "", map(budget.text, (first, *others)))


@pass_context
def _measured(context: Context, value: object) -> object:
    budget_of(context).measure(value)
    return value


@pass_context
def _iterate(context: Context, values: Iterable[Any]) -> Iterator[Any]:
    return budget_of(context).iterate(values)


@pass_context
def _slice(context: Context, value: Any, start: Any, stop: Any, step: Any) -> Any:
    if isinstance(value, str | list | tuple):
        budget_of(context).spend(len(value))
    return value[start:stop:step]


@pass_context
def _spend(context: Context, units: int) -> str:
    budget_of(context).spend(units)
    return ""


@pass_context
def _compared(context: Context, value: object) -> object:
    budget_of(context).compare(value)
    return value


@pass_context
def _searched(context: Context, values: object) -> object:
    budget_of(context).search(values)
    return values


CONCATENATE, MEASURED, ITERATE, SLICE, SPEND = "~", "[]", "for", "[:]", "spend"
COMPARED, SEARCHED = "==", "in"

OPERATORS: dict[str, Function] = {
    COMPARED: _compared,
    CONCATENATE: _concatenate,
    MEASURED: _measured,
    ITERATE: _iterate,
    SEARCHED: _searched,
    SLICE: _slice,
    SPEND: _spend,
}

FILTERS: dict[str, Function] = {
    "capitalize": _of_text(filters.do_capitalize),
    "count": len,
    "d": filters.do_default,
    "default": filters.do_default,
    "dictsort": _of_plain_data(
        lambda _, value, *args, **kw: filters.do_dictsort(value, *args, **kw)
    ),
    "first": filters.sync_do_first,
    "float": _of_scalar(filters.do_float),
    "indent": _indent,
    "int": _of_scalar(filters.do_int),
    "items": filters.do_items,
    "join": _join,
    "last": filters.do_last,
    "length": len,
    "list": _list,
    "lower": _of_text(filters.do_lower),
    "map": _of_values(filters.sync_do_map),
    "reject": _of_values(filters.sync_do_reject),
    "rejectattr": _of_values(filters.sync_do_rejectattr),
    "replace": _replace,
    "reverse": _reverse,
    "safe": _of_text(str),
    "select": _of_values(filters.sync_do_select),
    "selectattr": _of_values(filters.sync_do_selectattr),
    "sort": _of_plain_data(filters.do_sort),
    "string": _of_text(str),
    "title": _of_text(filters.do_title),
    "tojson": _tojson,
    "trim": _trim,
    "unique": _of_plain_data(filters.sync_do_unique),
    "upper": _of_text(filters.do_upper),
}
