"""The stub of the extension against the built module: names, parameters, defaults, kinds."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import phi3svc
from phi3svc import _core

STUB = Path(phi3svc.__file__).with_name("_core.pyi")


def stubbed() -> dict[str, ast.FunctionDef]:
    tree = ast.parse(STUB.read_text())
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


def stubbed_classes() -> dict[str, set[str]]:
    """Methods and properties by class, exceptions left out."""
    tree = ast.parse(STUB.read_text())
    return {
        node.name: {member.name for member in node.body if isinstance(member, ast.FunctionDef)}
        for node in tree.body
        if isinstance(node, ast.ClassDef) and not node.bases
    }


def signature_in_stub(node: ast.FunctionDef) -> list[str]:
    """Parameter names as written, `*` before those that are keyword-only, `=` after defaults."""
    args = node.args
    required = len(args.args) - len(args.defaults)
    names = [a.arg + ("=" if i >= required else "") for i, a in enumerate(args.args)]
    if args.kwonlyargs:
        names.append("*")
        names += [
            a.arg + ("" if default is None else "=")
            for a, default in zip(args.kwonlyargs, args.kw_defaults, strict=True)
        ]
    return names


def signature_in_module(name: str) -> list[str]:
    """The same from the first line of the docstring that pybind11 writes."""
    signature = getattr(_core, name).__doc__.splitlines()[0]
    inside = re.fullmatch(rf"{name}\((.*)\) -> .*", signature)
    assert inside, f"{signature!r} is no signature"
    depth, parameters = 0, [""]
    for char in inside[1]:
        depth += (char in "[({") - (char in "])}")
        if char == "," and depth == 0:
            parameters.append("")
        else:
            parameters[-1] += char
    found = []
    for parameter in filter(None, (p.strip() for p in parameters)):
        declared, _, default = parameter.partition("=")
        found.append(declared.split(":")[0].strip() + ("=" if default else ""))
    return found


def test_the_stub_names_what_the_module_has() -> None:
    functions = {
        name for name in dir(_core) if callable(getattr(_core, name)) and not name.startswith("_")
    }
    assert functions == {*stubbed(), *stubbed_classes(), "Error"}


def test_the_stub_has_the_methods_of_the_classes_and_they_are_documented() -> None:
    for name, methods in stubbed_classes().items():
        made_by_pybind = {"__doc__", "__module__", "__init__", "_pybind11_conduit_v1_"}
        methods -= {"__init__"}
        assert vars(getattr(_core, name)).keys() - made_by_pybind == methods, name
        for method in methods - {"__len__"}:
            text = getattr(getattr(_core, name), method).__doc__
            assert text.splitlines()[1:] or "(" not in text, f"{name}.{method} has no docstring"


def test_the_stub_has_the_parameters_of_the_module() -> None:
    for name, node in stubbed().items():
        assert signature_in_module(name) == signature_in_stub(node), name


def test_every_function_of_the_module_is_documented() -> None:
    for name in stubbed():
        assert len(getattr(_core, name).__doc__.splitlines()) > 1, f"{name} has no docstring"
