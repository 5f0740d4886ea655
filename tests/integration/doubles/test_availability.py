"""What is newer than the host, or not for its architecture, does not exist on the double."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.apple_double import MacHost, imported_frameworks

_FILE = Path(__file__).parents[3] / "resources" / "apple-sdk" / "published_tests.json"
FACTS: dict[str, dict[str, Any]] = json.loads(_FILE.read_text())["facts"]
METHODS = [fact for fact in FACTS.values() if fact.get("class") not in (None, "VZVirtualMachineView")]


@pytest.mark.parametrize("version", [(13, 0), (14, 0), (15, 0), (26, 0)])
def test_methods_exist_on_the_versions_that_the_published_tests_name(tmp_path, version):
    with imported_frameworks(MacHost(tmp_path / "mac", version=version)) as frameworks:
        for fact in METHODS:
            introduced = tuple(int(part) for part in (fact["introduced"] or "0").split("."))
            cls = getattr(frameworks.Virtualization, fact["class"], None)
            if introduced <= version:
                assert hasattr(cls, fact["method"]), fact
            else:
                assert cls is None or not hasattr(cls, fact["method"]), fact


def test_arm64_only_parts_do_not_exist_on_intel(tmp_path):
    with imported_frameworks(MacHost(tmp_path / "mac", arch="x86_64")) as frameworks:
        vz = frameworks.Virtualization
        with pytest.raises(AttributeError, match="has no attribute 'VZMacOSBootLoader'"):
            _ = vz.VZMacOSBootLoader
        assert not hasattr(vz.VZVirtualMachine, "saveMachineStateToURL_completionHandler_")
        assert hasattr(vz.VZVirtualMachine, "startWithCompletionHandler_")
