"""What PyObjC's own tests of Virtualization assert, as facts: its maintainers run them on Macs.

Only names, numbers and type encodings are taken; no test code.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from .fwinfo import Json
from .sources import Archive, SourceError

_DIRECTORY = r"PyObjCTest/test_\w+\.py"
_METHOD_FACTS = {
    "assertArgIsBOOL": "argument-is-bool",
    "assertArgIsBlock": "argument-is-block",
    "assertArgIsOut": "argument-is-out",
    "assertResultHasType": "result-has-type",
    "assertResultIsBOOL": "result-is-bool",
}
_IGNORED = {"assertCallableMetadataIsSane"}


def facts(archive: Archive) -> Json:
    """Every assertion of the published tests. Raises: SourceError for one that this module does not understand."""
    found = [fact for path in archive.matching(_DIRECTORY) for fact in _facts_of(path, archive.text(path))]
    source = archive.source
    return {
        "source": {"package": source.package, "version": source.version, "sha256": source.sha256},
        "facts": {f"{number:03}": fact for number, fact in enumerate(sorted(found, key=repr))},
    }


def _facts_of(path: str, text: str) -> Iterator[Json]:
    for case in ast.parse(text).body:
        if not isinstance(case, ast.ClassDef):
            continue
        for test in case.body:
            if isinstance(test, ast.FunctionDef) and test.name.startswith("test"):
                conditions = _conditions(test)
                for call in ast.walk(test):
                    if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
                        yield from _fact(path, call.func.attr, call.args, conditions)


def _conditions(test: ast.FunctionDef) -> Json:
    """``@min_os_level("13.0")`` and ``@arch_only("arm64")``."""
    found: Json = {"introduced": None, "arm64_only": False}
    for decorator in test.decorator_list:
        if isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Name):
            value = ast.literal_eval(decorator.args[0])
            if decorator.func.id in ("min_os_level", "min_sdk_level"):
                found["introduced"] = value
            elif decorator.func.id == "arch_only":
                found["arm64_only"] = value == "arm64"
    return found


def _fact(path: str, name: str, arguments: list[ast.expr], conditions: Json) -> Iterator[Json]:
    if not name.startswith("assert") or name in _IGNORED:
        return
    match name, [_dotted(argument) for argument in arguments]:
        case "assertEqual", [[_, constant], None]:
            yield conditions | {"kind": "constant", "name": constant, "value": _number(arguments[1])}
        case "assertIsEnumType", [[_, enumeration]]:
            yield conditions | {"kind": "enumeration", "name": enumeration}
        case "assertProtocolExists", [None]:
            yield conditions | {"kind": "protocol", "name": ast.literal_eval(arguments[0])}
        case _, [[_, class_name, method], *_] if name in _METHOD_FACTS:
            constants = [argument.value for argument in arguments[1:] if isinstance(argument, ast.Constant)]
            position = next((value for value in constants if isinstance(value, int)), None)
            encoding = next((value.decode() for value in constants if isinstance(value, bytes)), None)
            yield conditions | {
                "kind": _METHOD_FACTS[name],
                "class": class_name,
                "method": method,
                "position": position,
                "encoding": encoding,
            }
        case _, [[_, _], *_] if name in _METHOD_FACTS:
            return  # a method of a helper class of the tests, a delegate: the formal protocol has it
        case _:
            raise SourceError(f"{path}: {name}({', '.join(map(ast.unparse, arguments))}) is not understood")


def _dotted(expression: ast.expr) -> list[str] | None:
    """``Virtualization.VZMACAddress.string`` as its parts; None for anything else."""
    parts: list[str] = []
    while isinstance(expression, ast.Attribute):
        parts.append(expression.attr)
        expression = expression.value
    return [expression.id, *reversed(parts)] if parts and isinstance(expression, ast.Name) else None


def _number(expression: ast.expr) -> int:
    """A number, or a flag written as ``1 << 0``."""
    if isinstance(expression, ast.BinOp) and isinstance(expression.op, ast.LShift):
        return _number(expression.left) << _number(expression.right)
    return int(ast.literal_eval(expression))
