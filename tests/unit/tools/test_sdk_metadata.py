import copy
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tools.sdk_metadata import command_line, fwinfo, headers, reduction
from tools.sdk_metadata.difference import differences
from tools.sdk_metadata.sources import Archive, Source, SourceError, open_archive

VOID = {"type_name": "void", "typestr": "v"}
ERROR = {
    "name": "error", "null_accepted": True, "type_modifier": "o", "type_name": "NSError * _Nullable *", "typestr": "^@",
}  # fmt: skip
HANDLER = {
    "name": "completionHandler",
    "callable": {
        "arguments": {"0": {"type": "^v"}, "1": {"type": "@", "type_name": "NSError *"}},
        "retval": {"type": "v"},
    },
    "null_accepted": True,
    "type_name": "void (^)(NSError * _Nullable)",
    "typestr": "@?",
}


def method(selector: str, *arguments: dict[str, Any], **facts: Any) -> dict[str, Any]:
    return {"selector": selector, "args": list(arguments), "class_method": False, "retval": VOID, **facts}


def dump(*classes: dict[str, Any]) -> dict[str, Any]:
    definitions = {
        "classes": {entry["name"]: entry for entry in classes},
        "enum": {"VZStateOn": {"enum": "VZState", "value": 1}},
        "enum_type": {"VZState": {"type": "q"}},
        "externs": {"VZErrorDomain": {"typestr": "@", "type_name": "const NSErrorDomain", "introduced": "11.0"}},
        "formal_protocols": {"VZDelegate": {"methods": [method("stopped:", required=False, introduced="11.0")]}},
    }
    return {"release": "26.5", "definitions": definitions}


def cls(name: str, *methods: dict[str, Any], parent: str = "NSObject") -> dict[str, Any]:
    return {"name": name, "super": parent, "protocols": [], "methods": list(methods), "properties": []}


MACHINE = cls(
    "VZMachine",
    method("start:", HANDLER, introduced="11.0"),
    method("save:", HANDLER, introduced="14.0"),
    method("check:", ERROR, introduced="11.0", retval={"type_name": "BOOL", "typestr": "Z"}),
    method("name", introduced="12.0", retval={"type_name": "NSString *", "typestr": "@"}),
    method("name", introduced="12.0", class_method=True, retval={"type_name": "NSString *", "typestr": "@"}),
)
REGISTERED = """
r(b"VZMachine", b"start:", {"arguments": {2: {"callable": {"retval": {"type": b"v"},
  "arguments": {0: {"type": b"^v"}, 1: {"type": b"@"}}}}}})
r(b"VZMachine", b"save:", {"arguments": {2: {"callable": {"retval": {"type": b"v"},
  "arguments": {0: {"type": b"^v"}, 1: {"type": b"@"}}}}}})
r(b"VZMachine", b"check:", {"arguments": {2: {"type_modifier": b"o"}}})
"""
UNAVAILABLE = """
def _setup():
    for cls, sel in (("VZMachine", b"new"), ("VZMachine", b"init")):
        objc.registerUnavailableMethod(cls, sel)
"""


def archive(registered: str = REGISTERED) -> Archive:
    without_save = {**MACHINE, "methods": [m for m in MACHINE["methods"] if m["selector"] != "save:"]}
    files = {
        "metadata/raw/arm64-26.5.fwinfo": "// generated\n"
        + json.dumps(dump(MACHINE, cls("VZMac", parent="VZMachine"))),
        "metadata/raw/x86_64-26.5.fwinfo": json.dumps(dump(without_save)),
        "Lib/Virtualization/__init__.py": UNAVAILABLE,
        "Lib/Virtualization/_metadata.py": registered,
    }
    return Archive(*packed(files))


def packed(files: dict[str, str]) -> tuple[Source, bytes]:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(f"some_package-1.0/{name}")
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
    data = buffer.getvalue()
    return Source("some-package", "1.0", hashlib.sha256(data).hexdigest()), data


def test_altered_source_is_refused() -> None:
    source, data = packed({"License.txt": "MIT"})
    with pytest.raises(SourceError, match="was reviewed"):
        Archive(source, data + b"\0")


def test_missing_source_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no some_package-1\.0\.tar\.gz"):
        open_archive(Source("some-package", "1.0", ""), tmp_path, None)


def test_reduction() -> None:
    document = reduction.virtualization(archive())
    machine = document["classes"]["VZMachine"]
    assert machine["unavailable"] == ["init", "new"]
    assert machine["introduced"] == "11.0"
    assert not machine["arm64_only"]
    assert document["classes"]["VZMac"]["arm64_only"]
    assert {name for name, facts in machine["methods"].items() if facts["arm64_only"]} == {"save:"}
    assert {name for name in machine["methods"] if "name" in name} == {"+name", "-name"}
    assert machine["methods"]["start:"]["arguments"][0]["block"] == ["v", "@"]
    assert machine["methods"]["start:"]["arguments"][0]["block_names"] == ["NSError*"]
    assert machine["methods"]["check:"]["arguments"][0]["out"]
    assert document["protocols"]["VZDelegate"]["stopped:"]["required"] is False
    assert document["enums"]["VZStateOn"] == {"value": 1, "type": "VZState", "introduced": None}


def test_same_bytes_twice() -> None:
    first, second = (command_line.text(reduction.virtualization(archive())) for _ in range(2))
    assert first == second
    assert json.loads(first) == reduction.virtualization(archive())


CHECK = 'r(b"VZMachine", b"check:"'


@pytest.mark.parametrize(
    ("old", "new"),
    [('{2: {"type_modifier": b"o"}}', "{}"), ('1: {"type": b"@"}}}}}})\n' + CHECK, "}}}}})\n" + CHECK)],
    ids=["out parameter", "block"],
)
def test_registration_that_contradicts_the_dump_stops_the_tool(old: str, new: str) -> None:
    assert old in REGISTERED
    with pytest.raises(SourceError, match="VZMachine"):
        reduction.virtualization(archive(REGISTERED.replace(old, new)))


def test_differences_between_releases() -> None:
    old = reduction.virtualization(archive())
    new = copy.deepcopy(old)
    new["source"]["version"] = "2.0"
    del new["classes"]["VZMac"]
    new["classes"]["VZNew"] = {**old["classes"]["VZMac"], "introduced": "27.0"}
    machine = new["classes"]["VZMachine"]
    machine["methods"]["start:"]["deprecated"] = "27.0"
    machine["methods"]["stop:"] = machine["methods"].pop("save:")
    new["enums"]["VZStateOn"]["value"] = 2
    assert list(differences(old, new)) == [
        "~ source some-package 1.0 (SDK 26.5) -> some-package 2.0 (SDK 26.5)",
        "- classes VZMac",
        "- [VZMachine save:]",
        "~ [VZMachine start:] deprecated: None -> 27.0",
        "+ [VZMachine stop:] (macOS 14.0)",
        "+ classes VZNew (macOS 27.0)",
        "~ VZStateOn value: 1 -> 2",
    ]
    assert list(differences(old, old)) == []


@pytest.mark.parametrize(
    ("written", "plain", "element"),
    [
        ("NSArray<VZConsoleDevice *> *", "NSArray<VZConsoleDevice*>*", "VZConsoleDevice"),
        ("NSArray<id<VZUSBDevice>> *", "NSArray<id<VZUSBDevice>>*", "VZUSBDevice"),
        ("NSDictionary<NSString *,VZMacro *> *", "NSDictionary<NSString*,VZMacro*>*", "VZMacro"),
        ("NSError * _Nullable *", "NSError**", None),
        ("const char *", "char*", None),
    ],
)
def test_type_names(written: str, plain: str, element: str | None) -> None:
    assert fwinfo.type_name(written) == plain
    assert fwinfo.element_of(plain) == element


def test_nullability_of_generated_headers(tmp_path: Path) -> None:
    (tmp_path / "VZThing.rs").write_text(
        """
impl VZThing {
    extern_methods!(
        /// Documentation with fn words(in: it);
        #[unsafe(method(initWithURL:name:error:_))]
        pub unsafe fn initWithURL_name_error(
            this: Allocated<Self>, url: &NSURL, name: Option<&NSString>,
        ) -> Result<Retained<Self>, Retained<NSError>>;

        #[unsafe(method(delegate))]
        pub unsafe fn delegate(&self) -> Option<Retained<ProtocolObject<dyn VZDelegate>>>;

        #[unsafe(method(start:))]
        pub unsafe fn start(&self, handler: &block2::Block<'static, fn(*mut NSError)>);
    );
}
"""
    )
    table = headers.read(tmp_path, "r1")
    assert table["methods"] == {"VZThing": ["delegate", "initWithURL:name:error:", "start:"]}
    assert table["nullable"] == {"VZThing": {"delegate": ["returns"], "initWithURL:name:error:": [1]}}


@pytest.fixture(scope="module")
def vendored() -> dict[str, Any]:
    text = (command_line.DESTINATION / "virtualization.json").read_text("utf-8")
    document: dict[str, Any] = json.loads(text)
    assert command_line.text(document) == text  # written by this tool, not by hand
    return document


def test_vendored_facts(vendored: dict[str, Any]) -> None:
    """What the headers say in the places where a mistake would hurt most."""
    classes = vendored["classes"]
    assert len(classes) == 110
    assert sum("init" in facts["unavailable"] for facts in classes.values()) == 50
    virtual_machine = classes["VZVirtualMachine"]["methods"]
    assert virtual_machine["queue"]["introduced"] == "26.0"
    assert virtual_machine["startWithCompletionHandler:"]["arguments"][0]["block"] == ["v", "@"]
    assert virtual_machine["saveMachineStateToURL:completionHandler:"]["arm64_only"]
    assert classes["VZMacAuxiliaryStorage"]["methods"]["initWithContentsOfURL:"]["deprecated"] == "100000.0"
    assert not classes["VZMacPlatformConfiguration"]["methods"]["setHardwareModel:"]["arguments"][0]["nullable"]
    assert classes["VZMacPlatformConfiguration"]["methods"]["setAuxiliaryStorage:"]["arguments"][0]["nullable"]
    assert sum(facts["arm64_only"] for facts in classes.values()) == 15
    assert 0 not in {
        facts["value"] for facts in vendored["enums"].values() if facts["type"] == "VZDiskImageSynchronizationMode"
    }


def test_every_object_of_virtualization_says_whether_it_may_be_nil(vendored: dict[str, Any]) -> None:
    silent = {
        f"{owner} {selector}"
        for owner, facts in vendored["classes"].items()
        for selector, entry in facts["methods"].items()
        for value in (entry["returns"], *entry["arguments"])
        if value["type"] == "@" and value["nullable"] is None and selector not in ("init", "new")
    }
    assert silent == {"VZMACAddress initWithEthernetAddress:", "VZVmnetNetworkDeviceAttachment initWithNetwork:"}
