"""The modules under check: their functions, classes and imports, by key."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from .types import Type

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(slots=True)
class Function:
    """One `def`. Types are what all passes so far saw: of arguments at its call sites, of its return statements."""

    key: str
    node: FunctionNode
    owner: str | None = None
    """Key of the class it is a method of."""
    parameters: dict[str, Type] = field(default_factory=dict)
    returns: Type | None = None

    @property
    def names(self) -> list[str]:
        arguments = self.node.args
        return [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]

    @property
    def is_static(self) -> bool:
        return any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in self.node.decorator_list)

    @property
    def own_names(self) -> list[str]:
        """Positional parameters without `self` or `cls`."""
        return self.names[1:] if self.owner is not None and not self.is_static else self.names


@dataclass(slots=True)
class Class:
    key: str
    node: ast.ClassDef
    attributes: dict[str, Type] = field(default_factory=dict)
    objc_base: str | None = None
    """The Objective-C class that it derives from."""


@dataclass(slots=True)
class Module:
    name: str
    path: Path
    shown: str
    tree: ast.Module
    imports: dict[str, str] = field(default_factory=dict)
    """Local name -> key `module:name` of a function or class of this package, or a dotted name of something else."""


class Package:
    """All modules of a directory, parsed."""

    def __init__(self, directory: Path, name: str, shown: Path | None = None) -> None:
        self.name = name
        self.modules = [_module(path, directory, name, shown or directory) for path in _sources(directory)]
        self.functions: dict[str, Function] = {}
        self.classes: dict[str, Class] = {}
        for module in self.modules:
            self._collect(module, module.tree.body, module.name, None, ":")

    def _collect(
        self, module: Module, body: Iterable[ast.stmt], prefix: str, owner: str | None, separator: str
    ) -> None:
        for node in body:
            match node:
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    key = f"{prefix}{separator}{node.name}"
                    self.functions[key] = Function(key, node, owner)
                    self._collect(module, node.body, key, None, ".")
                case ast.ClassDef():
                    key = f"{prefix}{separator}{node.name}"
                    self.classes[key] = Class(key, node)
                    self._collect(module, node.body, key, key, ".")
                case _:
                    inner = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
                    handlers = [stmt for h in getattr(node, "handlers", ()) for stmt in h.body]
                    cases = [stmt for c in getattr(node, "cases", ()) for stmt in c.body]
                    self._collect(module, [*inner, *handlers, *cases], prefix, owner, separator)

    def resolve_import(self, dotted: str) -> str | None:
        """`package.module.name` as the key of one of our functions or classes."""
        module, _, name = dotted.rpartition(".")
        key = f"{module}:{name}"
        return key if key in self.functions or key in self.classes else None


def _sources(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*.py"))


def _module(path: Path, directory: Path, package: str, shown: Path) -> Module:
    tree = ast.parse(path.read_text("utf-8"), filename=str(path))
    relative = path.relative_to(directory)
    name = ".".join((package, *relative.with_suffix("").parts)).removesuffix(".__init__")
    module = Module(name, path, str(shown / relative), tree)
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                for alias in node.names:
                    module.imports[alias.asname or alias.name.partition(".")[0]] = (
                        alias.name if alias.asname else alias.name.partition(".")[0]
                    )
            case ast.ImportFrom():
                base = node.module or ""
                if node.level:
                    parts = name.split(".")[: -node.level] if path.name != "__init__.py" else name.split(".")
                    base = ".".join([*parts, base] if base else parts)
                for alias in node.names:
                    module.imports[alias.asname or alias.name] = f"{base}.{alias.name}"
            case _:
                pass
    return module
