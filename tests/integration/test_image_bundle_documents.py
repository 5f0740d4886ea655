"""Documents of bundles that lie or are damaged: a reason, never a crash, and no file outside of the bundle."""

import json
import plistlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import vm_bundles
from vzkubelet.errors import Error
from vzkubelet.images import bundles

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False),
    st.text(max_size=20),
    st.sampled_from(["..", "../../etc/passwd", "/etc/passwd", "disk.img", "", "\0", "a/b", "x" * 5000, "%%%"]),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
BUNDLES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "macosvm": (vm_bundles.macosvm, "vm.json"),
    "agoda": (vm_bundles.created, "config.json"),
    "tart": (vm_bundles.tart, "config.json"),
    "lume": (vm_bundles.lume, "config.json"),
    "UTM": (vm_bundles.utm, "config.plist"),
    "UTM with QEMU": (vm_bundles.utm_qemu, "config.plist"),
    "VirtualBuddy": (vm_bundles.virtualbuddy, ".vbdata/Config.plist"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: make(tmp_path_factory.mktemp("bundle") / "vm") for name, (make, _) in BUNDLES.items()}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a document."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def changed(document: Any, path: tuple[Any, ...], value: Any) -> None:
    *way, last = path
    for key in way:
        document = document[key]
    document[last] = value


def check_read(directory: Path) -> None:
    try:
        bundle = bundles.read(directory)
        bundles.check(bundle)
    except Error:
        return
    for file in bundle.files:
        assert file.resolve().is_relative_to(directory.resolve())


@pytest.mark.parametrize("kind", BUNDLES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_in_any_place_is_read_or_refused(kind: str, made: dict[str, Path], data: st.DataObject) -> None:
    directory, name = made[kind], BUNDLES[kind][1]
    path = directory / name
    original = path.read_bytes()
    is_plist = name.endswith("plist")
    document = plistlib.loads(original) if is_plist else json.loads(original)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from(sorted(places(document), key=repr)))
        changed(document, place, data.draw(VALUES))
    try:
        try:
            path.write_bytes(plistlib.dumps(document) if is_plist else json.dumps(document).encode())
        except (TypeError, OverflowError, ValueError):  # not every value is one of a property list
            return
        check_read(directory)
    finally:
        path.write_bytes(original)


@pytest.mark.parametrize("kind", BUNDLES)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_to_the_bytes_is_read_or_refused(kind: str, made: dict[str, Path], data: st.DataObject) -> None:
    path = made[kind] / BUNDLES[kind][1]
    original = path.read_bytes()
    damaged = bytearray(original)
    for position, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(original) - 1), st.integers(0, 255)), max_size=4)
    ):
        damaged[position] = value
    try:
        path.write_bytes(bytes(damaged)[: data.draw(st.integers(0, len(original)))])
        check_read(made[kind])
    finally:
        path.write_bytes(original)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"version": ' + "[" * 100_000,
        '{"version": 1, "version": 2, "os": "darwin"}',
        "null",
        "[]",
        "\ufeff{}",
        '{"os": "macOS", "display": "1x1", "cpuCount": 1e400}',
    ],
)
def test_strange_json_is_refused(text: str, tmp_path: Path) -> None:
    directory = vm_bundles.tart(tmp_path / "vm")
    (directory / "config.json").write_text(text)
    with pytest.raises(Error):
        bundles.check(bundles.read(directory))


BOMB = """<?xml version="1.0"?>
<!DOCTYPE plist [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>
<plist version="1.0"><dict><key>Backend</key><string>&b;</string></dict></plist>"""
SECRET = """<?xml version="1.0"?>
<!DOCTYPE plist [<!ENTITY a SYSTEM "file:///etc/passwd">]>
<plist version="1.0"><dict><key>Backend</key><string>&a;</string></dict></plist>"""


@pytest.mark.parametrize("text", [BOMB, SECRET, "<plist>" * 20_000, "bplist00" + "\0" * 40])
def test_a_property_list_reads_no_entities(text: str, tmp_path: Path) -> None:
    """Hazard: an XML bomb, or a file of this host in a message."""
    directory = vm_bundles.utm(tmp_path / "vm")
    (directory / "config.plist").write_text(text)
    with pytest.raises(Error) as caught:
        bundles.read(directory)
    assert "root:" not in str(caught.value)
