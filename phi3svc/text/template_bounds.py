"""Rewrites a parsed chat template so that everything it does spends from the render's budget.

Calls, arithmetic and printing pass through hooks of the environment. What has no hook becomes a
filter that has: loops, comparisons, tests, concatenation, slices, keys, and lists and dicts written
in the template.
"""

from __future__ import annotations

from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.visitor import NodeTransformer

from phi3svc.text.template_filters import (
    COMPARED,
    CONCATENATE,
    ITERATE,
    MEASURED,
    SEARCHED,
    SLICE,
    SPEND,
)

_REFUSED = (
    nodes.Block,
    nodes.Extends,
    nodes.FromImport,
    nodes.Import,
    nodes.Include,
    nodes.ScopedEvalContextModifier,
)


def bounded(tree: nodes.Template) -> nodes.Template:
    """The rewritten tree. SecurityError for statements that no chat template needs."""
    rewritten: nodes.Template = _Bounds().visit(tree)
    return rewritten


class _Bounds(NodeTransformer):
    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        self.generic_visit(node)
        match node:
            case nodes.For():
                if node.recursive:
                    raise SecurityError("a recursive loop has no place in a chat template")
                node.iter = _operator(ITERATE, node.iter)
                _spend_in(node.body)
            case nodes.Macro() | nodes.CallBlock():
                _spend_in(node.body)
            case nodes.Compare():
                node.expr = _operator(COMPARED, node.expr)
                for operand in node.ops:
                    is_search = operand.op in ("in", "notin")
                    operand.expr = _operator(SEARCHED if is_search else COMPARED, operand.expr)
            case nodes.Test():
                node.node = _operator(COMPARED, node.node)
                node.args = [_operator(SEARCHED, argument) for argument in node.args]
            case nodes.Concat():
                return _operator(CONCATENATE, *node.nodes)
            case nodes.List() | nodes.Dict() | nodes.Tuple(ctx="load"):
                return _operator(MEASURED, node)
            case nodes.Getitem(arg=nodes.Slice(start=start, stop=stop, step=step)):
                nothing = nodes.Const(None, lineno=node.lineno)
                return _operator(SLICE, node.node, *(b or nothing for b in (start, stop, step)))
            case nodes.Getitem() if not isinstance(node.arg, nodes.Const):
                node.arg = _operator(COMPARED, node.arg)
            case _ if isinstance(node, _REFUSED):
                raise SecurityError(f"{type(node).__name__} has no place in a chat template")
        return node


def _spend_in(body: list[nodes.Node]) -> None:
    """Let each run of `body` cost what is written in it."""
    block = nodes.Scope(body, lineno=body[0].lineno if body else 1)
    units = sum(1 for _ in block.find_all(nodes.Node))
    units += sum(len(literal.data) for literal in block.find_all(nodes.TemplateData))
    spend = _operator(SPEND, nodes.Const(units, lineno=block.lineno))
    body.insert(0, nodes.Output([spend], lineno=block.lineno))


def _operator(name: str, value: nodes.Node, *args: nodes.Node) -> nodes.Filter:
    return nodes.Filter(value, name, list(args), [], None, None, lineno=value.lineno)
