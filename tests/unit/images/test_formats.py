"""Manifests as they come from registries: what is read, and what is refused in which words."""

import base64
import json
from typing import Any

import pytest

from vzkubelet.errors import InvalidInput
from vzkubelet.images import formats
from vzkubelet.images.formats import agoda, chunked
from vzkubelet.images.formats.artifact import Encoding, Machine, single
from vzkubelet.model import oci
from vzkubelet.model.oci import Descriptor, Index, Platform
from vzkubelet.ports import ImageDefaults

NAME = "r.io/vm:1"
TITLE = "org.opencontainers.image.title"
SIZE = "com.agoda.macosvz.content.uncompressed-size"
DIGEST = "com.agoda.macosvz.content.uncompressed-digest"
B64 = base64.b64encode(b"boot data").decode()


def digest(character: str) -> str:
    return "sha256:" + character * 64


def layer(kind: str, title: str | None, **annotations: str) -> dict[str, Any]:
    notes = {**({TITLE: title} if title is not None else {}), **annotations}
    media_type = kind if "/" in kind else f"application/vnd.agoda.macosvz.{kind}"
    return {"mediaType": media_type, "digest": digest("c"), "size": 10, "annotations": notes}


def disk(title: str | None = "disk.img", **annotations: str) -> dict[str, Any]:
    return layer("disk.image.v1", title, **({SIZE: "4096", DIGEST: digest("d")} | annotations))


def aux() -> dict[str, Any]:
    return layer("aux.image.v1", "aux.img", **{SIZE: "64", DIGEST: digest("a")})


def config() -> dict[str, Any]:
    return layer("config.v1+json", "config.json")


def manifest(*layers: dict[str, Any], **changes: Any) -> bytes:
    """The published example of the format, with other layers or members."""
    document = {
        "schemaVersion": 2,
        "mediaType": oci.MANIFEST,
        "artifactType": "application/vnd.agoda.macosvz.artifact",
        "config": {
            "mediaType": oci.EMPTY,
            "digest": oci.EMPTY_DIGEST,
            "size": 2,
            "data": "e30=",
            "platform": {"architecture": "arm64", "os": "darwin"},
        },
        "layers": list(layers) or [disk(), aux(), config()],
        "annotations": {"org.opencontainers.image.created": "2024-08-20T08:16:40Z"},
        **changes,
    }
    return json.dumps(document).encode()


def read(content: bytes) -> formats.Artifact:
    return formats.read(formats.read_manifest(content, NAME), NAME)


def encoding(content: formats.Content) -> Encoding:
    assert isinstance(content.layout, formats.Streams)
    (stream,) = content.layout.streams
    return stream.encoding


def refused(content: bytes) -> str:
    with pytest.raises(InvalidInput) as caught:
        read(content)
    assert caught.value.reason == "ErrImagePull"
    assert NAME in str(caught.value)
    return str(caught.value)


def test_published_example() -> None:
    artifact = read(manifest())
    assert artifact.platform == Platform(os="darwin", architecture="arm64")
    assert (encoding(artifact.disk), artifact.disk.raw_digest, artifact.disk.raw_size_bytes) == (
        Encoding.GZIP,
        digest("d"),
        4096,
    )
    assert artifact.aux.raw_size_bytes == 64
    assert artifact.image_config is None
    assert artifact.total_bytes == 20


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0)])
def test_layers_are_found_by_type_in_any_order(order: tuple[int, ...]) -> None:
    layers = [disk(), aux(), config()]
    assert read(manifest(*(layers[position] for position in order))) == read(manifest())


@pytest.mark.parametrize("missing", [SIZE, DIGEST])
def test_layer_with_one_annotation_only_is_not_compressed(missing: str) -> None:
    bare = disk()
    del bare["annotations"][missing]
    found = read(manifest(bare, aux(), config())).disk
    assert (encoding(found), found.raw_digest, found.raw_size_bytes) == (Encoding.IDENTITY, digest("c"), 10)


def test_untitled_extensions_are_passed_over_and_the_image_config_is_not() -> None:
    extra = layer(oci.IMAGE_CONFIG, None)
    unknown = layer("application/vnd.example.future", None)
    assert read(manifest(disk(), aux(), unknown, extra, config())).image_config is not None


@pytest.mark.parametrize(
    "title",
    ["../../x", "/etc/passwd", "a/b", "..", ".", "", "a\\b", "a\0b", "a\nb", "x" * 256],
)
def test_title_that_is_no_plain_file_name_is_refused_by_name(title: str) -> None:
    text = refused(manifest(disk(title), aux(), config()))
    assert "is not a plain file name" in text
    assert "\n" not in text


def test_hostile_title_on_an_unknown_layer_is_refused_too() -> None:
    text = refused(manifest(disk(), aux(), config(), layer("application/vnd.example", "../../x")))
    assert '"../../x" is not a plain file name' in text


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([disk(), aux(), config(), layer("application/x", "notes.txt")], "unsupported media type application/x"),
        ([disk(), aux()], "the configuration layer"),
        ([disk(), config()], "the auxiliary storage layer"),
        ([aux(), config()], "the disk image layer"),
        ([disk(), disk("b.img"), aux(), config()], "more than one layer"),
        ([disk("aux.img"), aux(), config()], "more than one layer for aux.img"),
        ([disk(None), aux(), config()], "has no title"),
        ([disk(**{SIZE: "4 KiB"}), aux(), config()], "is not a size"),
        ([disk(**{SIZE: "-1"}), aux(), config()], "is not a size"),
        ([disk(**{SIZE: "9" * 30}), aux(), config()], "is not a size"),
        ([disk(**{DIGEST: "sha512:ff"}), aux(), config()], "is not a sha256 digest"),
        ([disk() | {"digest": "md5:00"}, aux(), config()], "no valid sha256 digest"),
        ([disk() | {"digest": "sha256:../../../etc"}, aux(), config()], "no valid sha256 digest"),
        ([disk() | {"size": -1}, aux(), config()], "no valid sha256 digest and size"),
        ([disk(), aux(), config() | {"size": 2**21}], "at most 1048576 allowed"),
        ([disk(), aux(), config(), layer(oci.IMAGE_CONFIG, None) | {"size": 2**21}], "at most 1048576 allowed"),
    ],
)
def test_malformed_images(layers: list[dict[str, Any]], words: str) -> None:
    assert words in refused(manifest(*layers))


CONTAINER = {"mediaType": oci.IMAGE_CONFIG, "digest": digest("1"), "size": 1}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"artifactType": "", "config": CONTAINER, "layers": []}, "an ordinary container image"),
        (
            {
                "artifactType": "",
                "mediaType": oci.DOCKER_MANIFEST,
                "config": CONTAINER | {"mediaType": "application/vnd.docker.container.image.v1+json"},
                "layers": [],
            },
            "an ordinary container image",
        ),
        (
            {"artifactType": "", "config": CONTAINER | {"mediaType": "application/vnd.cncf.helm.config.v1+json"}},
            "a Helm",
        ),
        ({"artifactType": "application/vnd.example+type"}, "an artifact of type application/vnd.example+type"),
    ],
)
def test_other_artifacts_are_named_beside_what_is_expected(changes: dict[str, Any], words: str) -> None:
    text = refused(manifest(**changes))
    assert words in text
    assert "application/vnd.agoda.macosvz.artifact" in text


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"{}", b'{"schemaVersion": 2, "config": 1}'])
def test_what_is_no_manifest(content: bytes) -> None:
    with pytest.raises(InvalidInput, match="manifest is malformed"):
        formats.read_manifest(content, NAME)


# --- The small documents


def machine(config_json: Any, image_config: Any = None, platform: Platform | None = None) -> Machine:
    changes = {"config": {"mediaType": oci.EMPTY, "digest": oci.EMPTY_DIGEST, "size": 2}}
    if platform:
        changes["config"]["platform"] = {"os": platform.os, "architecture": platform.architecture}
    parsed = formats.read_manifest(manifest(**changes), NAME)
    return formats.read_machine(
        parsed,
        formats.read(parsed, NAME),
        config_json if isinstance(config_json, bytes) else json.dumps(config_json).encode(),
        None if image_config is None else json.dumps(image_config).encode(),
        NAME,
    )


def test_boot_data_with_keys_in_any_case_as_go_reads_them() -> None:
    found = machine({"os": "darwin", "HardwareModelData": B64, "machineiddata": B64})
    assert (found.hardware_model, found.machine_id) == (b"boot data", b"boot data")
    assert (found.os, found.architecture) == ("darwin", "arm64")


def test_linux_needs_no_boot_data() -> None:
    found = machine({"os": "linux"}, platform=Platform(os="linux", architecture="amd64"))
    assert (found.os, found.architecture, found.hardware_model) == ("linux", "amd64", b"")


def test_image_config_gives_defaults_and_hints() -> None:
    extra = {
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Entrypoint": ["/init"],
            "Cmd": [],
            "Env": ["PATH=/bin", "EMPTY=", "A=b=c"],
            "WorkingDir": "/srv",
            "User": "ci",
            "Labels": {
                "macos-vz-kubelet.machine.cpu-min": "2",
                "macos-vz-kubelet.machine.memory-min-bytes": "1073741824",
            },
        },
        "rootfs": {"type": "layers", "diff_ids": []},
    }
    found = machine({"os": "linux"}, extra, Platform(os="linux", architecture="amd64"))
    assert found.defaults == ImageDefaults(
        ("/init",), (), (("PATH", "/bin"), ("EMPTY", ""), ("A", "b=c")), "/srv", "ci"
    )
    assert (found.cpu_min, found.memory_min_bytes) == (2, 2**30)


def test_nothing_said_is_not_the_same_as_nothing_to_run() -> None:
    found = machine({"os": "linux"}, {"config": {"Cmd": None}}, Platform(os="linux", architecture="amd64"))
    assert found.defaults.cmd is None
    assert found.defaults.entrypoint is None


@pytest.mark.parametrize(
    ("config_json", "image_config", "words"),
    [
        (b"{", None, "config.json is not a JSON object"),
        (b"[]", None, "config.json is not a JSON object"),
        ({"os": "darwin"}, None, "needs hardwareModelData and machineIdData"),
        ({"os": "darwin", "hardwareModelData": "%", "machineIdData": B64}, None, "hardwareModelData in config.json is"),
        ({"os": "darwin", "hardwareModelData": 7, "machineIdData": B64}, None, "is not a string"),
        ({"os": "windows"}, None, "os windows is neither"),
        ({"os": "linux"}, {"config": {"Cmd": "ls"}}, "the image config is malformed"),
        ({"os": "linux"}, {"config": {"Labels": {"macos-vz-kubelet.machine.cpu-min": "two"}}}, "not a whole number"),
    ],
)
def test_malformed_documents(config_json: Any, image_config: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        machine(config_json, image_config)


def test_manifest_and_document_that_contradict_each_other() -> None:
    with pytest.raises(InvalidInput, match=r"the manifest says os linux, config.json says darwin"):
        machine({"os": "darwin"}, platform=Platform(os="linux", architecture="amd64"))


# --- Indexes


def entry(artifact_type: str, platform: Platform | None, character: str) -> Descriptor:
    return Descriptor(
        media_type=oci.MANIFEST, digest=digest(character), size=1, artifact_type=artifact_type, platform=platform
    )


LINUX = Platform(os="linux", architecture="amd64")
MAC = Platform(os="darwin", architecture="arm64")
MIXED = Index(
    schema_version=2,
    manifests=[
        entry("", LINUX, "1"),
        entry(agoda.ARTIFACT_TYPE, MAC, "2"),
        entry(agoda.ARTIFACT_TYPE, LINUX, "3"),
    ],
)


@pytest.mark.parametrize(
    ("wanted", "chosen"), [([LINUX], "3"), ([MAC, LINUX], "2"), ([Platform(os="x"), LINUX], "3"), ([], "2")]
)
def test_entry_by_artifact_type_and_platform(wanted: list[Platform], chosen: str) -> None:
    assert formats.candidates(MIXED, wanted, NAME)[0].digest == digest(chosen)


def test_index_without_what_this_host_runs() -> None:
    with pytest.raises(InvalidInput, match=r"no virtual machine image for linux/arm64 .* only darwin/arm64"):
        formats.candidates(MIXED, [Platform(os="linux", architecture="arm64")], NAME)


def test_index_of_ordinary_images() -> None:
    ordinary = Index(schema_version=2, manifests=[entry("", MAC, "1")])
    with pytest.raises(InvalidInput, match="index of ordinary container images"):
        formats.candidates(ordinary, [LINUX], NAME)


def test_entry_that_does_not_say_what_it_is_comes_after_those_that_do() -> None:
    index = Index(
        schema_version=2,
        manifests=[
            entry("", LINUX, "1"),
            entry("application/vnd.example", LINUX, "2"),
            entry("", MAC, "3"),
            entry(agoda.ARTIFACT_TYPE, LINUX, "4"),
            entry(chunked.ARTIFACT_TYPE, LINUX, "5"),
            entry("application/vnd.unknown.artifact.v1", None, "6"),
        ],
    )
    # The first platform decides, then the format: what is moved fastest comes first.
    assert [one.digest[-1] for one in formats.candidates(index, [MAC, LINUX], NAME)] == ["3", "6", "5", "4", "1"]
    assert [one.digest[-1] for one in formats.candidates(index, [LINUX], NAME)] == ["5", "4", "1", "6"]
    assert [one.digest[-1] for one in formats.candidates(index, [], NAME)] == ["5", "4", "1", "3", "6"]


# --- Writing


def test_what_is_written_is_what_the_reference_reads() -> None:
    """Every titled layer of a type it knows, its document last; extras without a title; no time unless asked for."""
    machine = Machine("linux", "amd64", defaults=ImageDefaults(cmd=("sh",)), cpu_min=2)
    file = single(Descriptor(media_type="x", digest=digest("c"), size=10), Encoding.GZIP, 4096, digest("d"))
    written = agoda.write(machine, file, file, image_config={"created": "x"})
    document = json.loads(written.manifest)
    types = [entry["mediaType"] for entry in document["layers"] if entry.get("annotations")]
    assert types == [agoda.DISK, agoda.AUX, agoda.CONFIG]
    assert document["layers"][0]["annotations"] == {TITLE: "disk.img", SIZE: "4096", DIGEST: digest("d")}
    assert document["config"] == {
        "mediaType": oci.EMPTY,
        "digest": oci.EMPTY_DIGEST,
        "size": 2,
        "data": "e30=",
        "platform": {"architecture": "amd64", "os": "linux"},
    }
    assert "annotations" not in document
    assert json.loads(written.documents[-1]).keys() >= {"storage", "mediatype", "os"}


def test_image_without_extras_has_no_extra_layer() -> None:
    assert agoda.write_image_config(Machine("linux", "amd64"), None) is None


@pytest.mark.parametrize("given", [{"config": 1}, {"config": {"Cmd": "ls"}}, {"config": {"Env": [1]}}])
def test_image_config_that_is_none_is_not_pushed(given: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        agoda.write_image_config(Machine("linux", "amd64", cpu_min=1), given)


def test_a_place_in_one_blob_is_none_in_another_that_becomes_the_same_file() -> None:
    raw = "sha256:" + "a" * 64
    first, second = (Descriptor(media_type="disk", digest="sha256:" + digit * 64, size=5) for digit in "bc")
    contents = [
        single(first, Encoding.GZIP, 7, raw),
        single(second, Encoding.GZIP, 7, raw),
        single(first, Encoding.IDENTITY, 7, raw),
    ]
    assert len({content.key for content in contents}) == 1
    assert len({content.plan for content in contents}) == 3
