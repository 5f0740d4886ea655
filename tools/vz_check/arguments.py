"""Checks of one argument against what the header declares."""

from __future__ import annotations

import ast
from collections.abc import Callable

from .catalog import Catalog, Json, Method
from .types import Form, Type

Report = Callable[[ast.AST, str, str, str], None]

_NUMBERS = "qQiIlLsSdf"
_BRIDGED = {
    Form.TEXT: "NSString", Form.BYTES: "NSData", Form.ARRAY: "NSArray", Form.ARRAY_GETTER: "NSArray",
    Form.INTEGER: "NSNumber", Form.FLOAT: "NSNumber", Form.BOOL: "NSNumber", Form.ENUM: "NSNumber",
}  # fmt: skip


def check_argument(
    catalog: Catalog, report: Report, method: Method, declared: Json, node: ast.expr, known: Type
) -> None:
    parameter = f"`{declared['parameter']}` of {method.label}"
    if declared["out"]:
        if not (isinstance(node, ast.Constant) and node.value is None):
            report(node, "error-argument", f"{parameter} is an error parameter", "None")
    elif declared["block"] is not None:
        if known.form is Form.NONE:
            report(node, "handler-none", f"{parameter} is None", "a function that takes the block's arguments")
    elif declared["type"] == "@":
        _object(catalog, report, parameter, declared, node, known)
    elif declared["name"] in catalog.enum_types:
        _enum(catalog, report, parameter, declared["name"], node, known)
    elif declared["type"] in _NUMBERS:
        _number(report, parameter, declared["type"], node, known)
    elif declared["type"] == "Z" and known.form in (Form.TEXT, Form.BYTES, Form.FLOAT, Form.NONE):
        report(node, "number-conversion", f"{parameter} is a BOOL and gets {known.form}", "True or False")


def _object(catalog: Catalog, report: Report, parameter: str, declared: Json, node: ast.expr, known: Type) -> None:
    if known.form is Form.NONE:
        if declared["nullable"] is False:
            report(node, "nil-for-nonnull", f"{parameter} is not nullable", "an object, or leave the call out")
        return
    wanted: str = declared["name"]
    if wanted == "NSURL*" and known.form in (Form.TEXT, Form.PATH, Form.BYTES):
        report(node, "text-for-url", f"{parameter} gets {known.form}", "NSURL.fileURLWithPath_(…)")
        return
    if wanted == "dispatch_queue_t":
        if known.is_objc:
            report(node, "wrong-object", f"{parameter} gets {known.name}", 'dispatch_queue_create(b"label", None)')
        return
    if wanted.startswith("NSArray"):
        _array(catalog, report, parameter, declared["element"], node, known)
        return
    if not wanted.endswith("*") or (cls := wanted[:-1]) not in catalog.classes:
        return
    given = known.name if known.form is Form.INSTANCE else _BRIDGED.get(known.form)
    if known.form in (Form.CLASS, Form.ALLOCATED, Form.OUTCOME, Form.PATH):
        report(node, "wrong-object", f"{parameter} gets {known.form} {known.name}".rstrip(), f"an instance of {cls}")
    elif given is not None and not _accepts(catalog, cls, given):
        report(node, "wrong-object", f"{parameter} gets {given}", f"an instance of {cls}")


def _array(catalog: Catalog, report: Report, parameter: str, element: str | None, node: ast.expr, known: Type) -> None:
    if known.form not in (Form.ARRAY, Form.ARRAY_GETTER):
        if known.form not in (Form.UNKNOWN, Form.METHOD):
            report(node, "wrong-object", f"{parameter} is a list and gets {known.name or known.form}", "[…]")
        return
    if isinstance(node, ast.List) and any(isinstance(e, ast.Constant) and e.value is None for e in node.elts):
        report(node, "nil-for-nonnull", f"{parameter} gets a list with None in it", "a list of objects only")
    elif element in catalog.classes and known.name and not _accepts(catalog, element, known.name):
        report(node, "wrong-object", f"{parameter} gets a list of {known.name}", f"a list of {element}")


def _accepts(catalog: Catalog, wanted: str, given: str) -> bool:
    """Also a nearer class may turn out to be the wanted one: only unrelated classes are surely wrong."""
    return given not in catalog.classes or catalog.is_kind_of(given, wanted) or catalog.is_kind_of(wanted, given)


def _enum(catalog: Catalog, report: Report, parameter: str, enum: str, node: ast.expr, known: Type) -> None:
    values = catalog.enum_values(enum)
    if known.form is Form.ENUM:
        if known.name and known.name != enum:
            report(node, "enum-mismatch", f"{parameter} is a {enum} and gets a {known.name}", _listed(values))
    elif isinstance(node, ast.Constant) and not (node.value == 0 and enum.endswith("Options")):
        text = f"{parameter} is a {enum} and gets {node.value!r}"
        if isinstance(node.value, int) and node.value not in values.values():
            text += ", which it does not have"
        report(node, "bare-number", text, _listed(values))


def _listed(values: dict[str, int]) -> str:
    return "one of " + ", ".join(sorted(values, key=lambda name: values[name]))


def _number(report: Report, parameter: str, code: str, node: ast.expr, known: Type) -> None:
    match node:
        case ast.UnaryOp(op=ast.USub()) if code in "QILS":
            report(
                node, "number-conversion", f"{parameter} is unsigned and gets a negative number", "a positive number"
            )
            return
        case _:
            pass
    if known.form is Form.FLOAT and code not in "df":
        report(node, "number-conversion", f"{parameter} is an integer and gets a float", "int(…) or //")
    elif known.form in (Form.TEXT, Form.BYTES, Form.NONE):
        report(node, "number-conversion", f"{parameter} is a number and gets {known.form}", "a number")
