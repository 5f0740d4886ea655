"""The obligations of `ports.Volumes`, checked on every implementation (today: directories of this host)."""

import stat
from pathlib import Path

import msgspec
import pytest

from tests.support.memory_objects import MemoryObjects
from vzkubelet import errors, ports
from vzkubelet.model import pod as api
from vzkubelet.pods.world import NodeFacts
from vzkubelet.volumes import Volumes

NAMESPACE = "team"
NODE = NodeFacts(ip="192.0.2.1", allocatable_cpu_milli=4000, allocatable_memory_bytes=64 * 2**20)
KUBE_API_ACCESS = {
    "name": "kube-api-access-x7k2p",
    "projected": {
        "defaultMode": 420,
        "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {
                "downwardAPI": {
                    "items": [
                        {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
                    ]
                }
            },
        ],
    },
}


@pytest.fixture
def objects() -> MemoryObjects:
    known = MemoryObjects()
    known.add_config_map(NAMESPACE, "kube-root-ca.crt", {"ca.crt": "-----BEGIN"})
    return known


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def volumes(root: Path, objects: MemoryObjects) -> ports.Volumes:
    return Volumes(root, objects, lambda: NODE)


def pod(*volumes: object, uid: str = "uid-1", **container: object) -> api.Pod:
    content = {
        "metadata": {"namespace": NAMESPACE, "name": "web", "uid": uid, "labels": {"tier": "front", "app": 'a"b'}},
        "spec": {
            "serviceAccountName": "robot",
            "containers": [{"name": "main", "image": "x", **container}],
            "volumes": list(volumes),
        },
    }
    return msgspec.convert(content, api.Pod)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def failure(volumes: ports.Volumes, *declared: object) -> errors.Error:
    with pytest.raises(errors.Error) as caught:
        await volumes.prepare(pod(*declared))
    assert caught.value.reason == "FailedMount"
    return caught.value


# --- What every pod has ------------------------------------------------------------------------------------------


async def test_token_volume_of_every_pod(volumes: ports.Volumes, objects: MemoryObjects) -> None:
    path = (await volumes.prepare(pod(KUBE_API_ACCESS)))["kube-api-access-x7k2p"]
    assert (path / "token").read_text() == "token for robot until 3607 s as default"
    assert (path / "ca.crt").read_text() == "-----BEGIN"
    assert (path / "namespace").read_text() == NAMESPACE
    assert [mode(path / name) for name in ("token", "ca.crt", "namespace")] == [0o644] * 3
    assert ("token", "uid-1", "", "3607") in objects.reads


async def test_default_expiration_is_what_the_api_server_asks_for(volumes: ports.Volumes) -> None:
    sources = [{"serviceAccountToken": {"path": "token", "audience": "vault"}}]
    path = (await volumes.prepare(pod({"name": "v", "projected": {"sources": sources}})))["v"]
    assert (path / "token").read_text() == "token for robot until 3607 s as vault"


async def test_any_user_may_reach_the_files_and_nobody_else_their_parents(volumes: ports.Volumes, root: Path) -> None:
    paths = await volumes.prepare(pod(KUBE_API_ACCESS, {"name": "work", "emptyDir": {}}))
    assert mode(paths["work"]) == 0o777
    assert mode(paths["kube-api-access-x7k2p"]) == 0o755
    assert mode(paths["work"].parent) == mode(paths["work"].parent.parent) == 0o700
    assert paths["work"].is_relative_to(root)


# --- emptyDir and hostPath ---------------------------------------------------------------------------------------


async def test_empty_dir_keeps_its_data_and_goes_with_the_pod(volumes: ports.Volumes) -> None:
    declared = pod({"name": "work", "emptyDir": {}})
    path = (await volumes.prepare(declared))["work"]
    (path / "data").write_text("kept")
    assert (await volumes.prepare(declared))["work"] == path
    assert (path / "data").read_text() == "kept"
    assert await volumes.pods() == ["uid-1"]
    await volumes.remove("uid-1")
    assert not path.exists()
    assert await volumes.pods() == []
    await volumes.remove("uid-1")


async def test_memory_volume_is_a_bounded_tmpfs_and_is_unmounted(root: Path, objects: MemoryObjects) -> None:
    declared = pod({"name": "cache", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}})
    path = (await Volumes(root, objects, lambda: NODE).prepare(declared))["cache"]
    try:
        assert path.is_mount()
        assert mode(path) == 0o777
        (path / "data").write_text("kept")
        with pytest.raises(OSError, match="No space"):
            (path / "big").write_bytes(b"x" * (9 * 2**20))
        again = Volumes(root, objects, lambda: NODE)  # a later daemon
        assert (await again.prepare(declared))["cache"] == path
        assert (path / "data").read_text() == "kept"
    finally:
        await Volumes(root, objects, lambda: NODE).remove("uid-1")
    assert str(path) not in Path("/proc/self/mountinfo").read_text()
    assert not path.exists()


async def test_unknown_medium(volumes: ports.Volumes) -> None:
    fault = await failure(volumes, {"name": "v", "emptyDir": {"medium": "Tape"}})
    assert fault.message.startswith('MountVolume.SetUp failed for volume "v" : unknown storage medium "Tape"')


@pytest.mark.parametrize("type_", ["", "Directory", "DirectoryOrCreate"])
async def test_host_path_is_never_removed(volumes: ports.Volumes, tmp_path: Path, type_: str) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "precious").write_text("data")
    paths = await volumes.prepare(
        pod({"name": "h", "hostPath": {"path": str(shared), "type": type_}}, {"name": "e", "emptyDir": {}})
    )
    assert paths["h"] == shared
    await volumes.remove("uid-1")
    assert (shared / "precious").read_text() == "data"


async def test_link_to_a_host_directory_in_an_empty_dir_is_not_followed(volumes: ports.Volumes, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    path = (await volumes.prepare(pod({"name": "work", "emptyDir": {}})))["work"]
    (path / "link").symlink_to(tmp_path / "precious")
    await volumes.remove("uid-1")
    assert (tmp_path / "precious").is_dir()


async def test_host_path_is_made_where_its_type_says_so(volumes: ports.Volumes, tmp_path: Path) -> None:
    made = {"DirectoryOrCreate": tmp_path / "a/b", "FileOrCreate": tmp_path / "file"}
    for type_, path in made.items():
        await volumes.prepare(pod({"name": "h", "hostPath": {"path": str(path), "type": type_}}))
    assert made["DirectoryOrCreate"].is_dir()
    assert made["FileOrCreate"].is_file()


@pytest.mark.parametrize(
    ("type_", "text"),
    [
        ("Directory", "hostPath type check failed: {path} is not a directory"),
        ("DirectoryOrCreate", "hostPath type check failed: {path} is not a directory"),
        ("Socket", "hostPath type check failed: {path} is not a socket file"),
        ("CharDevice", "hostPath type check failed: {path} is not a character device"),
        ("Tape", "Tape is an invalid volume type"),
    ],
)
async def test_host_path_of_another_type(volumes: ports.Volumes, tmp_path: Path, type_: str, text: str) -> None:
    path = tmp_path / "file"
    path.touch()
    fault = await failure(volumes, {"name": "h", "hostPath": {"path": str(path), "type": type_}})
    assert fault.message == f'MountVolume.SetUp failed for volume "h" : {text.format(path=path)}'


async def test_host_file_that_is_missing(volumes: ports.Volumes, tmp_path: Path) -> None:
    fault = await failure(volumes, {"name": "h", "hostPath": {"path": str(tmp_path / "gone"), "type": "File"}})
    assert fault.message.endswith(f"hostPath type check failed: {tmp_path}/gone is not a file")


# --- configMap, secret, downwardAPI ------------------------------------------------------------------------------


async def test_config_map_with_modes_and_paths(volumes: ports.Volumes, objects: MemoryObjects) -> None:
    objects.add_config_map(NAMESPACE, "settings", {"a": "1", "b": "2"}, {"raw": b"\xff\x00"})
    whole = {"name": "whole", "configMap": {"name": "settings", "defaultMode": 0o400}}
    items = [{"key": "a", "path": "deep/er/a", "mode": 0o755}, {"key": "raw", "path": "raw"}]
    picked = {"name": "picked", "configMap": {"name": "settings", "items": items}}
    paths = await volumes.prepare(pod(whole, picked))
    assert {p.name: p.read_bytes() for p in paths["whole"].iterdir() if p.is_file()} == {
        "a": b"1",
        "b": b"2",
        "raw": b"\xff\x00",
    }
    assert mode(paths["whole"] / "a") == 0o400
    assert (paths["picked"] / "deep/er/a").read_text() == "1"
    assert mode(paths["picked"] / "deep/er/a") == 0o755
    assert mode(paths["picked"] / "raw") == 0o644
    assert not (paths["picked"] / "b").exists()
    assert objects.reads.count(("configmap", NAMESPACE, "settings")) == 1


async def test_secret(volumes: ports.Volumes, objects: MemoryObjects) -> None:
    objects.add_secret(NAMESPACE, "login", user=b"bob", password=b"s3cret")
    path = (await volumes.prepare(pod({"name": "s", "secret": {"secretName": "login", "defaultMode": 256}})))["s"]
    assert (path / "password").read_bytes() == b"s3cret"
    assert mode(path / "password") == 0o400


async def test_downward_api(volumes: ports.Volumes) -> None:
    items = [
        {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
        {"path": "tier", "fieldRef": {"fieldPath": "metadata.labels['tier']"}},
        {"path": "cpu", "resourceFieldRef": {"containerName": "main", "resource": "limits.cpu", "divisor": "1m"}},
    ]
    path = (await volumes.prepare(pod({"name": "d", "downwardAPI": {"items": items}})))["d"]
    assert (path / "labels").read_text() == 'app="a\\"b"\ntier="front"'
    assert (path / "tier").read_text() == "front"
    assert (path / "cpu").read_text() == "4000"


# --- What is missing ---------------------------------------------------------------------------------------------


async def test_missing_objects_and_keys_in_the_kubelets_words(volumes: ports.Volumes, objects: MemoryObjects) -> None:
    objects.add_config_map(NAMESPACE, "settings", {"a": "1"})
    objects.add_secret(NAMESPACE, "login", user=b"bob")
    items = [{"key": "k", "path": "k"}]
    for source, text in (
        ({"secret": {"secretName": "x"}}, 'secret "x" not found'),
        ({"configMap": {"name": "x"}}, 'configmap "x" not found'),
        ({"configMap": {"name": "settings", "items": items}}, "configmap references non-existent config key: k"),
        ({"secret": {"secretName": "login", "items": items}}, "references non-existent secret key: k"),
        (
            {"projected": {"sources": [{"secret": {"name": "x"}}, {"configMap": {"name": "y"}}]}},
            '[secret "x" not found, configmap "y" not found]',
        ),
        ({"projected": {"sources": [{"secret": {"name": "x"}}]}}, 'secret "x" not found'),
    ):
        fault = await failure(volumes, {"name": "v", **source})
        assert fault.message == f'MountVolume.SetUp failed for volume "v" : {text}'
        assert isinstance(fault, errors.NotFound)


async def test_optional_objects_and_keys_may_be_missing(volumes: ports.Volumes, objects: MemoryObjects) -> None:
    objects.add_config_map(NAMESPACE, "settings", {"a": "1"})
    items = [{"key": "k", "path": "k"}, {"key": "a", "path": "a"}]
    paths = await volumes.prepare(
        pod(
            {"name": "s", "secret": {"secretName": "x", "optional": True}},
            {"name": "c", "configMap": {"name": "settings", "items": items, "optional": True}},
            {"name": "p", "projected": {"sources": [{"configMap": {"name": "x", "optional": True}}]}},
        )
    )
    assert list(paths["s"].glob("[!.]*")) == []
    assert [p.name for p in paths["c"].glob("[!.]*")] == ["a"]
    assert list(paths["p"].glob("[!.]*")) == []


async def test_source_that_is_not_supported_names_the_volume(volumes: ports.Volumes) -> None:
    fault = await failure(volumes, {"name": "disk", "persistentVolumeClaim": {"claimName": "x"}})
    assert fault.message.startswith('MountVolume.SetUp failed for volume "disk" : it has no source that this node')
    assert isinstance(fault, errors.Unsupported)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("../../etc/cron.d/x", "invalid path: must not contain '..': ../../etc/cron.d/x"),
        ("/etc/passwd", "invalid path: must be relative path: /etc/passwd"),
        ("..data", "invalid path: must not start with '..': ..data"),
        ("a/../../b", "invalid path: must not contain '..': a/../../b"),
        ("x" * 256, "invalid path: filenames must be less than or equal to 255 characters"),
    ],
)
async def test_file_outside_of_its_volume_is_refused(
    volumes: ports.Volumes, objects: MemoryObjects, root: Path, path: str, text: str
) -> None:
    objects.add_config_map(NAMESPACE, "settings", {"a": "1"})
    items = [{"key": "a", "path": path}]
    fault = await failure(volumes, {"name": "v", "configMap": {"name": "settings", "items": items}})
    assert fault.message == f'MountVolume.SetUp failed for volume "v" : {text}'
    assert not root.exists() or not [p for p in root.rglob("*") if p.is_file()]


@pytest.mark.parametrize("name", ["../other", "a/b", "", ".."])
async def test_volume_name_that_is_a_path_is_refused(volumes: ports.Volumes, root: Path, name: str) -> None:
    await failure(volumes, {"name": name, "emptyDir": {}})
    assert not root.exists()


async def test_pod_uid_that_is_a_path_is_refused(volumes: ports.Volumes, tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidInput):
        await volumes.prepare(pod({"name": "e", "emptyDir": {}}, uid="../../x"))
    with pytest.raises(errors.InvalidInput):
        await volumes.remove("..")
    assert tmp_path.exists()


# --- Refreshing --------------------------------------------------------------------------------------------------


async def test_changed_object_replaces_the_files_at_once(volumes: ports.Volumes, objects: MemoryObjects) -> None:
    declared = pod({"name": "c", "configMap": {"name": "settings"}})
    objects.add_config_map(NAMESPACE, "settings", {"a": "1", "old": "x"})
    path = (await volumes.prepare(declared))["c"]
    before = (path / "..data").readlink()
    objects.add_config_map(NAMESPACE, "settings", {"a": "2", "new": "y"})
    await volumes.prepare(declared)
    assert {p.name: p.read_text() for p in path.iterdir() if p.is_file()} == {"a": "2", "new": "y"}
    assert (path / "..data").readlink() != before
    assert not (path / before).exists()
    assert not (path / "old").is_symlink()


async def test_same_content_is_not_written_again(volumes: ports.Volumes, objects: MemoryObjects) -> None:
    declared = pod({"name": "c", "configMap": {"name": "settings"}})
    objects.add_config_map(NAMESPACE, "settings", {"a": "1"})
    path = (await volumes.prepare(declared))["c"]
    before = (path / "..data").readlink()
    await volumes.prepare(declared)
    assert (path / "..data").readlink() == before


@pytest.mark.parametrize("fault", [errors.Unavailable("connection refused"), errors.NotFound('secret "s" not found')])
async def test_complete_volume_stays_usable_when_its_objects_cannot_be_read(
    root: Path, objects: MemoryObjects, fault: errors.Error
) -> None:
    objects.add_secret(NAMESPACE, "s", key=b"value")
    declared = pod(KUBE_API_ACCESS, {"name": "s", "secret": {"secretName": "s"}})
    await Volumes(root, objects, lambda: NODE).prepare(declared)
    objects.fault = fault
    paths = await Volumes(root, objects, lambda: NODE).prepare(declared)
    assert (paths["s"] / "key").read_text() == "value"
    objects.fault = None


async def test_pods_are_kept_apart(volumes: ports.Volumes) -> None:
    one = await volumes.prepare(pod({"name": "e", "emptyDir": {}}, uid="uid-1"))
    two = await volumes.prepare(pod({"name": "e", "emptyDir": {}}, uid="uid-2"))
    assert sorted(await volumes.pods()) == ["uid-1", "uid-2"]
    await volumes.remove("uid-1")
    assert not one["e"].exists()
    assert two["e"].is_dir()
    assert await volumes.pods() == ["uid-2"]


async def test_other_things_beside_the_volumes_are_left_alone(volumes: ports.Volumes, root: Path) -> None:
    await volumes.prepare(pod({"name": "e", "emptyDir": {}}))
    (root / "uid-1" / "pod.json").write_text("{}")
    await volumes.remove("uid-1")
    assert (root / "uid-1" / "pod.json").exists()
    assert await volumes.pods() == []
