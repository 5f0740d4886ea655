"""What a condition says about the host: `if host >= MacOS(14):`, `if host < MacOS(14): raise`, `is_apple_silicon`."""

from __future__ import annotations

import ast
from dataclasses import dataclass

from .catalog import DEPLOYMENT_TARGET, Version
from .package import Package


@dataclass(frozen=True, slots=True)
class Host:
    """What is known about the host at one place."""

    floor: Version = DEPLOYMENT_TARGET
    is_arm64: bool = False

    def both(self, other: Host) -> Host:
        return Host(max(self.floor, other.floor), self.is_arm64 or other.is_arm64)

    def either(self, other: Host) -> Host:
        return Host(min(self.floor, other.floor), self.is_arm64 and other.is_arm64)


NOTHING = Host(floor=(0, 0))


class Guards:
    """Reads conditions; knows the package's named versions such as `SAVE_RESTORE = MacOS(14)`."""

    def __init__(self, package: Package) -> None:
        self._named: dict[str, Version] = {}
        for module in package.modules:
            for node in ast.walk(module.tree):
                match node:
                    case (
                        ast.Assign(targets=[ast.Name(id=name)], value=ast.Call() as call)
                        | ast.AnnAssign(target=ast.Name(id=name), value=ast.Call() as call)
                    ):
                        if (found := self._literal(call)) is not None:
                            self._named[name] = found
                    case _:
                        pass

    def version(self, node: ast.expr) -> Version | None:
        """The version that an expression names."""
        match node:
            case ast.Call():
                return self._literal(node)
            case ast.Name(id=name) | ast.Attribute(attr=name):
                return self._named.get(name)
            case _:
                return None

    def read(self, test: ast.expr) -> tuple[Host, Host]:
        """What holds when the condition is true, and when it is false."""
        match test:
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                return self._comparison(left, op, right)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                true, false = self.read(operand)
                return false, true
            case ast.BoolOp(op=op, values=values):
                return self._combined(op, values)
            case ast.Attribute(attr="is_apple_silicon"):
                return Host((0, 0), is_arm64=True), NOTHING
            case _:
                return NOTHING, NOTHING

    def _combined(self, op: ast.boolop, values: list[ast.expr]) -> tuple[Host, Host]:
        sides = [self.read(value) for value in values]
        true, false = sides[0]
        for next_true, next_false in sides[1:]:
            if isinstance(op, ast.And):
                true, false = true.both(next_true), false.either(next_false)
            else:
                true, false = true.either(next_true), false.both(next_false)
        return true, false

    def _comparison(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> tuple[Host, Host]:
        if (known := self.version(right)) is not None:
            least = Host(known)
            match op:
                case ast.GtE() | ast.Gt() | ast.Eq():
                    return least, NOTHING
                case ast.Lt():
                    return NOTHING, least
                case _:
                    return NOTHING, NOTHING
        if (known := self.version(left)) is not None:
            least = Host(known)
            match op:
                case ast.LtE() | ast.Lt() | ast.Eq():
                    return least, NOTHING
                case ast.Gt():
                    return NOTHING, least
                case _:
                    return NOTHING, NOTHING
        return NOTHING, NOTHING

    @staticmethod
    def _literal(call: ast.Call) -> Version | None:
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        numbers = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
        if name != "MacOS" or not numbers or len(numbers) != len(call.args):
            return None
        if not all(isinstance(number, int) for number in numbers[:2]):
            return None
        return int(str(numbers[0])), int(str(numbers[1])) if len(numbers) > 1 else 0


def ends(body: list[ast.stmt]) -> bool:
    """Whether control never leaves a block at its end."""
    last = body[-1]
    match last:
        case ast.Raise() | ast.Return() | ast.Continue() | ast.Break():
            return True
        case ast.If(body=inner, orelse=other):
            return bool(other) and ends(inner) and ends(other)
        case ast.With(body=inner):
            return ends(inner)
        case _:
            return False


def refuses_intel(package: Package) -> bool:
    """Whether `check_host` of the package turns Intel Macs away, so that no later call has to ask."""
    for function in package.functions.values():
        if function.node.name == "check_host":
            for node in ast.walk(function.node):
                match node:
                    case ast.If(test=ast.UnaryOp(op=ast.Not(), operand=ast.Attribute(attr="is_apple_silicon"))):
                        return ends(node.body)
                    case _:
                        pass
    return False
