import json
from pathlib import Path

import pytest

from tests.unit.tools.vz_check.conftest import Check
from tools.vz_check import command_line, document

CODE = """
def configuration(url: Any, host: Any):
    cfg = V.VZVirtualMachineConfiguration.alloc().init()
    cfg.setBootLoader_(make(V.VZMacOSBootLoader))
    attachment, error = V.VZFileSerialPortAttachment.alloc().initWithURL_append_error_(url, True, None)
    if attachment is None:
        raise OSError(error.localizedDescription())
    if host >= MacOS(14):
        cfg.validateSaveRestoreSupportWithError_
    return cfg

def start(vm: Any):
    def done(error):
        pass
    vm.startWithCompletionHandler_(done)
    return V.VZErrorVirtualMachineLimitExceeded, V.VZVirtualMachine, D.dispatch_queue_create(b"a", None)

class ProductDelegate(F.NSObject, protocols=[objc.protocolNamed("VZVirtualMachineDelegate")]):
    def guestDidStopVirtualMachine_(self, vm):
        pass
"""


def test_what_is_used_is_recorded_with_its_facts(check: Check) -> None:
    api = check(CODE).api()
    classes = api["classes"]
    assert classes["VZVirtualMachineConfiguration"]["methods"].keys() == {"init", "setBootLoader:"}
    assert classes["VZMacOSBootLoader"]["refuses"] == ["init"]
    assert classes["VZMacOSBootLoader"]["arm64_only"]
    opened = classes["VZFileSerialPortAttachment"]["methods"]["initWithURL:append:error:"]
    assert (opened["out"], opened["arguments"], opened["modules"]) == ([2], ["@", "Z", "^@"], ["subject"])
    assert classes["NSError"]["methods"].keys() == {"localizedDescription"}
    assert classes["VZVirtualMachine"]["methods"]["startWithCompletionHandler:"]["blocks"] == {"0": ["v", "@"]}
    assert api["constants"]["VZErrorVirtualMachineLimitExceeded"]["value"] == 6
    assert api["functions"]["dispatch_queue_create"]["arguments"] == 2
    assert api["protocols"]["VZVirtualMachineDelegate"]["guestDidStopVirtualMachine:"]["types"] == ["v", "@"]


def test_document_lists_every_class_and_selector(check: Check) -> None:
    api = check(CODE).api()
    text = document.text(api)
    for name, facts in api["classes"].items():
        assert f"### {name}\n" in text
        for selector in facts["methods"]:
            assert f"{selector}` |" in text


@pytest.fixture
def product(tmp_path: Path, check: Check, monkeypatch: pytest.MonkeyPatch) -> Path:
    check(CODE.replace("        cfg.validateSaveRestoreSupportWithError_\n", "        pass\n"))
    for name, value in (
        ("ROOT", tmp_path),
        ("DIRECTORY", tmp_path),
        ("PACKAGE", "product"),
        ("DOCUMENT", tmp_path / "vz-api.md"),
        ("API", tmp_path / "api.json"),
    ):
        monkeypatch.setattr(command_line, name, value)
    return tmp_path


def test_stale_files_fail_the_check(product: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main([]) == 1
    assert "vz-api.md is stale: run tools/vz-check --write" in capsys.readouterr().err
    assert command_line.main(["--write"]) == 0
    assert command_line.main([]) == 0
    written = (product / "api.json").read_bytes()
    assert "modules" not in json.loads(written)["classes"]["VZVirtualMachine"]
    assert command_line.main(["--write"]) == 0
    assert (product / "api.json").read_bytes() == written
    subject = product / "subject.py"
    subject.write_text(subject.read_text() + "\nV.VZVirtualMachine.isSupported()\n")
    assert command_line.main([]) == 1


def test_findings_fail_the_check(product: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subject = product / "subject.py"
    subject.write_text(subject.read_text() + "\nV.VZVirtualMachine.isSupportd()\n")
    assert command_line.main(["--write"]) == 1
    told = capsys.readouterr().out
    assert "unknown-selector: VZVirtualMachine has no `isSupportd`; write `isSupported`" in told
