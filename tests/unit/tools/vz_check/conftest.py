from collections.abc import Callable
from pathlib import Path

import pytest

from tools.vz_check.catalog import Catalog
from tools.vz_check.checker import Checker

APPLE = '''
import functools
import importlib
from dataclasses import dataclass
from typing import Any


@dataclass
class Frameworks:
    objc: Any
    Foundation: Any
    Virtualization: Any
    dispatch: Any


def frameworks() -> Frameworks:
    load = importlib.import_module
    return Frameworks(load("objc"), load("Foundation"), load("Virtualization"), load("dispatch"))


def make(cls):
    """An instance by +new."""
    return cls.new()


def file_url(path):
    return frameworks().Foundation.NSURL.fileURLWithPath_(str(path))
'''
AVAILABILITY = """
def check_host(host):
    if not host.is_apple_silicon:
        raise RuntimeError("Intel")
"""
SUBJECT = """
import functools
import os
import queue
import subprocess
import time
from pathlib import Path
from typing import Any

from product import apple
from product.apple import file_url, make

V = apple.frameworks().Virtualization
F = apple.frameworks().Foundation
D = apple.frameworks().dispatch
objc = apple.frameworks().objc

"""

Check = Callable[..., Checker]


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    return Catalog.load()


@pytest.fixture
def check(tmp_path: Path, catalog: Catalog) -> Check:
    """Checks a small product: modules `apple` and `availability`, and `subject` with the given code."""

    def run(code: str, *, availability: str = AVAILABILITY, preamble: str = SUBJECT) -> Checker:
        for name, text in (("apple", APPLE), ("availability", availability), ("subject", preamble + code)):
            (tmp_path / f"{name}.py").write_text(text)
        checker = Checker(tmp_path, "product", catalog, Path("src"))
        checker.run()
        return checker

    return run
