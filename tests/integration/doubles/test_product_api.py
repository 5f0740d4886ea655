"""The double behaves for everything that the product calls: nothing of it is a name without behaviour."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.apple_double import MacHost, imported_frameworks

_FILE = Path(__file__).parents[3] / "src" / "vzkubelet" / "machines" / "vz" / "api.json"
USED: dict[str, Any] = json.loads(_FILE.read_text())


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


@pytest.mark.parametrize("version", [(13, 0), (14, 0), (15, 0), (26, 0)])
def test_every_method_that_the_product_calls_is_modelled(tmp_path, version):
    with imported_frameworks(MacHost(tmp_path / "mac", version=version)) as frameworks:
        for name, entry in USED["classes"].items():
            cls = getattr(getattr(frameworks, entry["framework"]), name, None)
            for selector, method in entry["methods"].items():
                found = getattr(cls, method["python"], None)
                if _version(method["introduced"]) > version:
                    assert found is None, f"{name} {selector} is newer than {version}"
                    continue
                assert found is not None, f"{name} {selector}"
                definition = getattr(found, "_definition", None)
                assert definition is None or definition.function.__name__ != "unmodelled", f"{name} {selector}"
                assert definition is None or definition.method.is_class is (method["kind"] == "class")


def test_constants_and_functions_that_the_product_uses(tmp_path):
    with imported_frameworks(MacHost(tmp_path / "mac", version=(26, 0))) as frameworks:
        for name in USED["constants"]:
            assert hasattr(frameworks.Virtualization, name) or hasattr(frameworks.Foundation, name), name
        for name in USED["functions"]:
            assert callable(getattr(frameworks.dispatch, name, None)), name


def test_a_name_without_behaviour_says_so(workshop):
    display = workshop.vz.VZGraphicsDisplay.reconfigureWithConfiguration_error_
    assert display._definition.function.__name__ == "unmodelled"
    with pytest.raises(NotImplementedError, match="NSThread detachNewThreadWithBlock"):
        workshop.foundation.NSThread.detachNewThreadWithBlock_(lambda: None)
