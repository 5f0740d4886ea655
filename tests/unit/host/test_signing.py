"""The signed app: what is in it, which commands sign it, and when nothing is to be done."""

import ctypes
import datetime
import os
import plistlib
import signal
import struct
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support.apple_tools import BUILD_UUID, Codesign, executable, standalone_python
from vzkubelet.errors import InvalidInput, MachineFault, Unsupported
from vzkubelet.host.probe import Output
from vzkubelet.host.signing import bundle, interpreter, macho, profile, sign
from vzkubelet.host.signing.bundle import Plan, Wishes
from vzkubelet.host.signing.interpreter import Interpreter

NOW = 1795255200.0
LATER, LONG_AGO = (datetime.datetime(year, 1, 1) for year in (2030, 2025))  # noqa: DTZ001  as plistlib has it
VIRTUALIZATION, BRIDGING = "com.apple.security.virtualization", "com.apple.vm.networking"
DEVELOPER = "Developer ID Application: Example (ABCDE12345)"


@pytest.mark.parametrize("fat", [False, True])
def test_libraries_of_an_executable(fat: bool) -> None:
    data = executable("/usr/lib/libSystem.B.dylib", "@rpath/libx.dylib", rpaths=["@executable_path/../lib"], fat=fat)
    assert macho.linkage(data) == macho.Linkage(
        ("/usr/lib/libSystem.B.dylib", "@rpath/libx.dylib"), ("@executable_path/../lib",)
    )


def test_an_executable_that_is_cut_off_is_refused_at_every_length() -> None:
    data = executable("@executable_path/../lib/libpython3.12.dylib")
    for length in range(8, len(data) - 8):
        with pytest.raises(ValueError, match=r".") as failed:
            macho.linkage(data[:length])
        assert not isinstance(failed.value, UnicodeDecodeError)


def test_a_universal_executable_without_apple_silicon_is_refused() -> None:
    data = executable(fat=True).replace(struct.pack(">i", macho.ARM64), struct.pack(">i", 7))
    with pytest.raises(ValueError, match="no part for Apple silicon"):
        macho.linkage(data)


@pytest.mark.parametrize("fat", [False, True])
def test_a_copy_has_a_build_uuid_of_its_own(fat: bool) -> None:
    """TN3179: macOS mixes up the local network grants of programs that share one."""
    data = executable("/usr/lib/libSystem.B.dylib", fat=fat)
    copy = macho.with_uuid(data, bundle.IDENTIFIER)
    assert BUILD_UUID not in copy
    assert len(copy) == len(data)
    assert copy == macho.with_uuid(data, bundle.IDENTIFIER), "a grant survives an upgrade"
    assert copy != macho.with_uuid(data, "org.other")
    assert macho.linkage(copy) == macho.linkage(data)
    assert sum(old != new for old, new in zip(data, copy, strict=True)) <= len(BUILD_UUID)


@pytest.fixture
def standalone(tmp_path: Path) -> Interpreter:
    return standalone_python(tmp_path)


def wishes(**changes: object) -> Wishes:
    given = {"identity": "-", "identifier": bundle.IDENTIFIER, "extra": (), "profile_file": None, "hardened": False}
    return sign.wishes(**{**given, "now": NOW, **changes})  # type: ignore[arg-type]


@pytest.fixture
def plan(standalone: Interpreter) -> Plan:
    return sign.make_plan(standalone, wishes())


def test_the_library_keeps_its_place_beside_the_executable(plan: Plan, standalone: Interpreter) -> None:
    assert plan.libraries == (Path("Contents/lib/libpython3.12.dylib"),)
    assert len(plan.files[bundle.EXECUTABLE]) == len(standalone.executable.read_bytes())
    assert plan.files[Path("Contents/pyvenv.cfg")].startswith(f"home = {standalone.prefix}/bin\n".encode())
    path_file = plan.files[Path("Contents/lib/python3.12/site-packages/macos-vz-kubelet.pth")].decode()
    assert path_file == f"import site; site.addsitedir('{standalone.site_directories[0]}')\n"


def test_a_library_is_also_found_by_the_paths_of_the_executable(standalone: Interpreter) -> None:
    data = executable("@rpath/libpython3.12.dylib", rpaths=["/elsewhere", "@loader_path/../lib"])
    [library] = interpreter.libraries(standalone.executable, data)
    assert library.place == Path("../lib/libpython3.12.dylib")
    assert library.source == standalone.prefix / "lib/libpython3.12.dylib"


@pytest.mark.parametrize(("name", "reason"), [
    ("@executable_path/../../../Python3", "not there"),
    ("@executable_path/../../venv/../python/lib/libpython3.12.dylib", "outside of what can be copied"),
])  # fmt: skip
def test_an_interpreter_that_cannot_be_moved_is_refused(standalone: Interpreter, name: str, reason: str) -> None:
    with pytest.raises(Unsupported, match=reason):
        interpreter.libraries(standalone.executable, executable(name))


def test_a_linux_program_is_refused(standalone: Interpreter) -> None:
    with pytest.raises(Unsupported, match="not a Mac program"):
        interpreter.libraries(standalone.executable, b"\x7fELF" + b"\0" * 60)


def test_a_framework_runs_the_program_inside_its_app(tmp_path: Path) -> None:
    stub, real = tmp_path / "bin/python3.12", tmp_path / "Resources/Python.app/Contents/MacOS/Python"
    for file in (stub, real):
        file.parent.mkdir(parents=True)
        file.touch()
    assert interpreter.main_executable(tmp_path, "Python", "3.12.8") == real
    assert interpreter.main_executable(tmp_path, "", "3.12.8") == stub
    with pytest.raises(InvalidInput, match=r"no interpreter .*python3\.13"):
        interpreter.main_executable(tmp_path, "", "3.13.0")


def test_the_property_list_says_what_macos_asks_for(plan: Plan) -> None:
    info = plistlib.loads(plan.files[bundle.INFO_PLIST])
    assert info["CFBundleExecutable"] == bundle.EXECUTABLE.name == "macos-vz-kubelet"
    assert info["CFBundleIdentifier"] == bundle.IDENTIFIER
    assert info["CFBundlePackageType"] == "APPL"
    assert info["LSUIElement"] is True
    assert info["LSMinimumSystemVersion"] == "13.0"
    assert info["NSLocalNetworkUsageDescription"]
    assert info["NSMicrophoneUsageDescription"]


def test_entitlements_are_plain_property_lists_without_comments() -> None:
    directory = Path(sign.__file__).parents[1] / "entitlements"
    contents = {file.stem: file.read_bytes() for file in directory.glob("*.plist")}
    assert set(contents) == {"virtualization", "bridged", "hardened"}
    for data in contents.values():
        assert b"<!--" not in data
        assert set(plistlib.loads(data).values()) == {True}
    assert plistlib.loads(contents["bridged"]).keys() == {VIRTUALIZATION, BRIDGING}


def test_ad_hoc_signing_takes_one_entitlement_and_no_time_stamp(plan: Plan) -> None:
    app = Path("/x/a.app")
    library, whole = sign.commands(app, plan, Path("e.plist"))
    assert library == [
        "codesign",
        "--force",
        "--sign",
        "-",
        "--timestamp=none",
        "/x/a.app/Contents/lib/libpython3.12.dylib",
    ]
    assert whole == [
        "codesign", "--force", "--sign", "-", "--timestamp=none",
        "--identifier", bundle.IDENTIFIER, "--entitlements", "e.plist", "/x/a.app",
    ]  # fmt: skip
    assert plan.record.entitlements == {VIRTUALIZATION: True}


def test_the_hardened_runtime_gets_what_pyobjc_needs(standalone: Interpreter) -> None:
    plan = sign.make_plan(standalone, wishes(identity=DEVELOPER, hardened=True))
    *_, whole = sign.commands(Path("a.app"), plan, Path("e.plist"))
    assert whole[:7] == ["codesign", "--force", "--sign", DEVELOPER, "--timestamp", "--options", "runtime"]
    assert plan.record.entitlements.keys() == {
        VIRTUALIZATION, "com.apple.security.cs.allow-jit", "com.apple.security.cs.disable-library-validation",
    }  # fmt: skip


def provisioning(**changes: object) -> bytes:
    granted = {BRIDGING: True, "com.apple.application-identifier": f"ABCDE12345.{bundle.IDENTIFIER}"}
    content = {"Entitlements": granted, "ExpirationDate": LATER, **changes}
    return b"\x30\x82 CMS" + plistlib.dumps(content) + b"signature"


def test_a_restricted_entitlement_needs_identity_and_profile(tmp_path: Path) -> None:
    file = tmp_path / "p.provisionprofile"
    file.write_bytes(provisioning())
    for given in ({"identity": DEVELOPER}, {"profile_file": file}):
        with pytest.raises(InvalidInput, match="is granted by Apple"):
            wishes(extra=(BRIDGING,), **given)
    chosen = wishes(extra=(BRIDGING,), identity=DEVELOPER, profile_file=file)
    assert chosen.profile == file.read_bytes()
    assert chosen.entitlements[BRIDGING]


@pytest.mark.parametrize(("data", "reason"), [
    (provisioning(ExpirationDate=LONG_AGO), "expired on 2025-01-01"),
    (provisioning(Entitlements={}), f"does not grant {BRIDGING}"),
    (provisioning(Entitlements={BRIDGING: True, "application-identifier": "T.org.other"}), "--identifier org.other"),
    (b"nonsense", "is not a provisioning profile"),
    (b"<?xml nonsense</plist>", "is not a provisioning profile"),
])  # fmt: skip
def test_a_profile_that_macos_would_kill_the_app_for_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        profile.check(data, "p", [BRIDGING], bundle.IDENTIFIER, NOW)


def test_a_profile_for_any_identifier_fits() -> None:
    data = provisioning(Entitlements={BRIDGING: True, "application-identifier": "T.com.agoda.*"})
    profile.check(data, "p", [BRIDGING], bundle.IDENTIFIER, NOW)


def test_signing_makes_verifies_and_proves_the_app(tmp_path: Path, plan: Plan) -> None:
    host, app, said = Codesign(), tmp_path / "apps/m.app", list[str]()
    sign.sign(host, app, plan, said.append)
    verbs = [line.split()[0:2] for line in host.ran]
    assert verbs[:4] == [["codesign", "--force"]] * 2 + [["codesign", "--verify"], ["codesign", "-d"]]
    assert "vzkubelet" in host.ran[-1]
    assert [line.removeprefix("$ ").split()[0] for line in said if line.startswith("$ codesign")] == ["codesign"] * 4
    assert (app / bundle.EXECUTABLE).stat().st_mode & 0o111
    assert not (app / bundle.INFO_PLIST).stat().st_mode & 0o111
    assert [entry.name for entry in app.parent.iterdir()] == ["m.app"]


def test_signing_again_waits_for_a_change(tmp_path: Path, plan: Plan, standalone: Interpreter) -> None:
    host, app = Codesign(), tmp_path / "m.app"
    assert not sign.is_current(host, app, plan)
    sign.sign(host, app, plan, lambda _: None)
    assert sign.is_current(host, app, sign.make_plan(standalone, wishes()))
    assert not sign.is_current(host, app, sign.make_plan(standalone, wishes(identity=DEVELOPER)))
    standalone.executable.write_bytes(standalone.executable.read_bytes() + b"newer")
    assert not sign.is_current(host, app, sign.make_plan(standalone, wishes()))


def test_a_broken_signature_is_made_again(tmp_path: Path, plan: Plan) -> None:
    host, app = Codesign(), tmp_path / "m.app"
    sign.sign(host, app, plan, lambda _: None)
    host.fails_at = "--verify"
    assert not sign.is_current(host, app, plan)


@pytest.mark.parametrize("step", ["--sign", "--verify", "-d "])
def test_a_failure_leaves_the_old_app_and_nothing_else(tmp_path: Path, plan: Plan, step: str) -> None:
    host, app = Codesign(), tmp_path / "m.app"
    (app / "old").mkdir(parents=True)
    host.fails_at = step
    with pytest.raises(MachineFault, match="codesign failed with status 1"):
        sign.sign(host, app, plan, lambda _: None)
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith((".", "m"))] == ["m.app"]
    assert (app / "old").is_dir()


def test_an_app_that_cannot_be_replaced_is_there_again(
    tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two renames there is none, and the service would start nothing from then on."""
    app, rename = tmp_path / "m.app", Path.rename
    (app / "old").mkdir(parents=True)

    def refuse(self: Path, target: Path) -> Path:
        if target == app and "retired" not in self.name:
            raise PermissionError(1, "Operation not permitted", str(target))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(InvalidInput, match="Operation not permitted"):
        sign.sign(Codesign(), app, plan, lambda _: None)
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith((".", "m"))] == ["m.app"]
    assert (app / "old").is_dir()


def test_the_old_app_goes_in_one_step_where_the_system_can(
    tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, swapped = tmp_path / "m.app", list[tuple[bytes, bytes, int]]()
    (app / "old").mkdir(parents=True)

    class Exchange:
        argtypes: list[type]

        def __call__(self, one: bytes, other: bytes, flags: int) -> int:
            swapped.append((one, other, flags))
            app, staged, aside = Path(os.fsdecode(one)), Path(os.fsdecode(other)), tmp_path / "aside"
            app.rename(aside)
            staged.rename(app)
            aside.rename(staged)
            return 0

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: SimpleNamespace(renamex_np=Exchange()))
    sign.sign(Codesign(), app, plan, lambda _: None)
    assert [flags for _, _, flags in swapped] == [2]
    assert (app / bundle.EXECUTABLE).is_file()
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith((".", "m"))] == ["m.app"]


def test_an_app_that_macos_kills_is_not_put_in_place(tmp_path: Path, plan: Plan) -> None:
    host, app = Codesign(), tmp_path / "m.app"
    host.proof = Output(-signal.SIGKILL)
    with pytest.raises(MachineFault, match="macOS killed the app"):
        sign.sign(host, app, plan, lambda _: None)
    assert not app.exists()


def test_an_interpreter_that_lost_its_packages_is_not_put_in_place(tmp_path: Path, plan: Plan) -> None:
    host, app = Codesign(), tmp_path / "m.app"
    host.proof = Output(1, "", "ModuleNotFoundError: No module named 'vzkubelet'")
    with pytest.raises(MachineFault, match="ModuleNotFoundError"):
        sign.sign(host, app, plan, lambda _: None)
    assert not app.exists()
