"""The double against what PyObjC's own tests assert on Macs."""

import json
import typing
from pathlib import Path
from typing import Any

import pytest

from tests.support.apple_double import AppleFrameworks, MacHost, imported_frameworks

_FILE = Path(__file__).parents[3] / "resources" / "apple-sdk" / "published_tests.json"
FACTS: dict[str, dict[str, Any]] = json.loads(_FILE.read_text())["facts"]
_LEFT_OUT = {"VZVirtualMachineView"}
"""Views need AppKit, which the double does not have."""


@pytest.fixture(scope="module")
def mac(tmp_path_factory: pytest.TempPathFactory) -> typing.Iterator[AppleFrameworks]:
    host = MacHost(tmp_path_factory.mktemp("mac"), version=[26, 5])
    with imported_frameworks(host) as frameworks:
        yield frameworks


def _name(fact: dict[str, Any]) -> str:
    return f"{fact['kind']}-{fact.get('class', '')}{fact.get('method') or fact.get('name')}-{fact.get('position')}"


@pytest.mark.parametrize("fact", [fact for fact in FACTS.values() if fact.get("class") not in _LEFT_OUT], ids=_name)
def test_published_fact_holds(mac, fact):
    match fact["kind"]:
        case "constant":
            assert getattr(mac.Virtualization, fact["name"]) == fact["value"]
        case "enumeration":
            assert isinstance(getattr(mac.Virtualization, fact["name"]), typing.NewType)
        case "protocol":
            assert mac.objc.protocolNamed(fact["name"]).__name__ == fact["name"]
        case kind:
            method = getattr(getattr(mac.Virtualization, fact["class"]), fact["method"])
            _check_method(kind, fact, method.__metadata__())


def _check_method(kind: str, fact: dict[str, Any], metadata: dict[str, Any]) -> None:
    position = None if fact["position"] is None else fact["position"] + 2  # self and _cmd come first
    match kind:
        case "result-is-bool":
            assert metadata["retval"]["type"] == b"Z"
        case "result-has-type":
            assert metadata["retval"]["type"] == b"{NSOperatingSystemVersion=qqq}"
        case "argument-is-bool":
            assert metadata["arguments"][position]["type"] == b"Z"
        case "argument-is-out":
            assert metadata["arguments"][position]["type"].startswith(b"o^")
        case "argument-is-block":
            block = metadata["arguments"][position]["callable"]
            parameters = (part["type"] for part in block["arguments"][1:])
            assert block["retval"]["type"] + b"".join(parameters) == fact["encoding"].encode()
        case _:
            pytest.fail(f"nobody checks {kind}")
