"""What every image format owes the port `formats.Format`, on golden images made from the documented facts."""

import contextlib
import copy
import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conformance.golden_images import (
    AUX,
    BUILT,
    DISK,
    GOLDEN,
    LUME,
    LUME_OLD,
    NAME,
    Golden,
    opened,
    refusal,
    setting,
    with_config,
)
from tests.support import wire_images
from tests.support.wire_images import WireImage, sha256
from vzkubelet.errors import InvalidInput
from vzkubelet.images import formats
from vzkubelet.images.formats import Chunked, Streams, chunked
from vzkubelet.model import oci
from vzkubelet.model.oci import Descriptor, Index, Platform


@pytest.fixture(params=GOLDEN)
def golden(request: pytest.FixtureRequest) -> Golden:
    return GOLDEN[request.param]


# --- What is there is read


def test_golden_image_is_read(golden: Golden) -> None:
    image = golden.build()
    artifact, machine = opened(image)
    assert wire_images.contents(artifact.disk, image.blobs) == DISK
    assert wire_images.contents(artifact.aux, image.blobs) == AUX
    assert machine == golden.machine
    large = {layer["digest"]: layer["size"] for layer in image.manifest["layers"] if "onfig" not in layer["mediaType"]}
    assert artifact.total_bytes == sum(large.values())


def test_layers_in_another_order_are_the_same_image(golden: Golden) -> None:
    image = golden.build()
    kinds = {layer["mediaType"].partition(";")[0] for layer in image.manifest["layers"]}
    before = opened(image)
    for seed in range(5):
        # Chunks keep their order among themselves; what kind comes first means nothing.
        order = random.Random(seed).sample(sorted(kinds), len(kinds))
        image.manifest["layers"].sort(key=lambda layer: order.index(layer["mediaType"].partition(";")[0]))
        assert opened(image) == before


def test_equal_files_have_equal_places_and_others_have_others(golden: Golden) -> None:
    artifact, _ = opened(golden.build())
    again, _ = opened(golden.build())
    assert artifact.disk.key == again.disk.key
    assert artifact.disk.key != artifact.aux.key
    assert oci.is_sha256(artifact.disk.key)


def test_digest_of_chunks_is_that_of_the_file(golden: Golden) -> None:
    """Whoever has the file can compute the name it has in the store."""
    image = golden.build()
    disk = opened(image)[0].disk
    chunks = disk.chunk_list()
    if isinstance(disk.layout, Chunked):
        chunks = chunked.read_index(disk, image.blobs[disk.layout.index.digest], NAME).chunk_list()
    if chunks is None:
        assert isinstance(disk.layout, Streams)
        assert len(disk.layout.streams) == 1
        return
    assert chunks.count > 1
    pieces = [DISK[start : start + chunks.chunk_bytes] for start in range(0, len(DISK), chunks.chunk_bytes)]
    assert chunks.digests == b"".join(bytes.fromhex(sha256(piece)[7:]) for piece in pieces)
    assert chunks.size_bytes == len(DISK)


# --- What is wrong is refused


def test_each_missing_layer_is_noticed(golden: Golden) -> None:
    complete = golden.build()
    for number, layer in enumerate(complete.manifest["layers"]):
        image = copy.deepcopy(complete)
        del image.manifest["layers"][number]
        if layer["mediaType"] in golden.optional:
            opened(image)
        else:
            assert refusal(image), layer


def test_each_layer_that_is_there_twice_is_noticed(golden: Golden) -> None:
    complete = golden.build()
    for number, layer in enumerate(complete.manifest["layers"]):
        image = copy.deepcopy(complete)
        image.manifest["layers"].insert(number, layer)
        if layer["mediaType"] not in golden.repeatable:
            assert refusal(image), layer


@pytest.mark.parametrize(
    "changes",
    [
        {"digest": "md5:00"},
        {"digest": "sha256:../../../etc/passwd"},
        {"digest": "sha256:" + "A" * 64},
        {"digest": ""},
        {"size": -1},
        {"size": 2**63},
        {"size": "10"},
        {"mediaType": "application/vnd.example.unknown"},
    ],
)
def test_no_layer_is_without_digest_size_and_known_type(golden: Golden, changes: dict[str, Any]) -> None:
    complete = golden.build()
    for number, layer in enumerate(complete.manifest["layers"]):
        if "mediaType" in changes and layer["mediaType"] in golden.optional:
            continue
        image = copy.deepcopy(complete)
        image.manifest["layers"][number] |= changes
        refusal(image)


@pytest.mark.parametrize("title", ["../../disk.img", "/etc/passwd", "a/b", "..", "", "a\\b", "a\0b", "a\nb"])
def test_titles_that_lead_elsewhere_are_refused_or_mean_nothing(golden: Golden, title: str) -> None:
    complete = golden.build()
    for number, layer in enumerate(complete.manifest["layers"]):
        image = copy.deepcopy(complete)
        annotations = layer.get("annotations", {})
        image.manifest["layers"][number]["annotations"] = annotations | {oci.TITLE: title}
        if oci.TITLE in annotations:
            assert "is not a plain file name" in refusal(image)
            continue
        try:
            artifact, _ = opened(image)
        except InvalidInput:
            continue
        assert artifact.disk.blob_bytes  # a format without titles does not use them


def test_small_documents_have_a_limit(golden: Golden) -> None:
    image = golden.build()
    artifact = opened(image)[0]
    for document in filter(None, (artifact.config, artifact.image_config)):
        changed = copy.deepcopy(image)
        for descriptor in [changed.manifest["config"], *changed.manifest["layers"]]:
            if descriptor["digest"] == document.digest:
                descriptor["size"] = 2**20 + 1
        assert "at most 1048576 allowed" in refusal(changed)


def test_raw_sizes_are_sizes(golden: Golden) -> None:
    complete = golden.build()
    for number, layer in enumerate(complete.manifest["layers"]):
        for annotation in layer.get("annotations", {}):
            if not annotation.endswith(("-size", "offset")):  # Lume's chunk.size says nothing that is read
                continue
            for text in ("", "-1", "1e3", "4 KiB", "9" * 30, "０", str(2**63)):
                image = copy.deepcopy(complete)
                image.manifest["layers"][number]["annotations"][annotation] = text
                assert "is not a size in bytes" in refusal(image)


def test_raw_digests_are_digests(golden: Golden) -> None:
    complete = golden.build()
    for number, layer in enumerate(complete.manifest["layers"]):
        for annotation in layer.get("annotations", {}):
            if annotation.endswith("digest"):
                image = copy.deepcopy(complete)
                image.manifest["layers"][number]["annotations"][annotation] = "sha512:" + "a" * 128
                assert "is not a sha256 digest" in refusal(image)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'"x"', b"[" * 100_000])
def test_configuration_that_is_no_object(golden: Golden, content: bytes) -> None:
    assert "is not a JSON object" in refusal(with_config(golden.build(), lambda _: content))


BOOT_DATA = {"hardwareModelData", "machineIdData", "hardwareModel", "machineIdentifier", "ecid"}


@pytest.mark.parametrize("value", [None, "", "%%%", 7, ["a"]])
def test_macos_image_without_its_boot_data(golden: Golden, value: object) -> None:
    image = golden.build()
    config = opened(image)[0].config
    assert config is not None
    keys = BOOT_DATA & json.loads(image.blobs[config.digest]).keys()
    assert len(keys) == 2
    for key in keys:
        refusal(with_config(golden.build(), setting(key, value)))


@pytest.mark.parametrize("value", ["windows", "", 7, "\n"])
def test_system_that_is_none(golden: Golden, value: object) -> None:
    image = with_config(golden.build(), lambda document: document.update({"os": value}))
    if value == "" and golden.machine is not LUME and golden.machine is not LUME_OLD:
        assert opened(image)[1].os == "darwin"  # said elsewhere, or what Tart takes by default
    else:
        refusal(image)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.floats() | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(GOLDEN)), st.randoms(use_true_random=False), JSON)
def test_manifests_with_anything_anywhere_are_read_or_refused(name: str, choice: random.Random, value: object) -> None:
    image = BUILT[name]
    manifest = copy.deepcopy(image.manifest)
    place: Any = manifest
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = choice.choice(keys)
        if not (isinstance(place[key], dict | list) and place[key]) or choice.random() < 0.1:
            break
        place = place[key]
    place[key] = value
    _read_or_refused(WireImage(manifest, image.blobs))


@given(st.sampled_from(sorted(GOLDEN)), st.randoms(use_true_random=False), JSON)
def test_documents_with_anything_anywhere_are_read_or_refused(name: str, choice: random.Random, value: object) -> None:
    image = BUILT[name]
    digests = [digest for digest, blob in image.blobs.items() if blob[:1] == b"{" and blob != b"{}"]
    digest = choice.choice(sorted(digests))
    document = json.loads(image.blobs[digest])
    place = document["config"] if "config" in document and choice.random() < 0.5 else document
    place[choice.choice(sorted(place))] = value
    _read_or_refused(WireImage(image.manifest, image.blobs | {digest: json.dumps(document).encode()}))


def _read_or_refused(image: WireImage) -> None:
    with contextlib.suppress(InvalidInput, _NotThere):
        opened(WireImage(image.manifest, _Blobs(image.blobs)))


class _NotThere(Exception):
    """The changed manifest names a blob that the registry does not have either."""


class _Blobs(dict[str, bytes]):
    def __missing__(self, digest: str) -> bytes:
        raise _NotThere(digest)


# --- Several images under one tag

MAC, LINUX = Platform(os="darwin", architecture="arm64"), Platform(os="linux", architecture="arm64")


def _entry(name: str, platform: Platform | None) -> Descriptor:
    manifest = json.loads(BUILT[name].manifest_bytes) if name in BUILT else {}
    artifact_type = manifest.get("artifactType", "")
    return Descriptor(
        media_type=oci.MANIFEST, digest=sha256(name.encode()), size=1, artifact_type=artifact_type, platform=platform
    )


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_image_is_found_in_an_index_beside_ordinary_ones(name: str) -> None:
    """As whoever pulls does it: candidates in order, until a manifest is one of a virtual machine."""
    container = formats.read_manifest(
        json.dumps(
            {"schemaVersion": 2, "config": {"mediaType": oci.IMAGE_CONFIG, "digest": sha256(b""), "size": 1}}
        ).encode(),
        NAME,
    )
    index = Index(
        schema_version=2,
        manifests=[
            _entry("container", LINUX),
            _entry("attestation", Platform(os="unknown", architecture="unknown")),
            _entry("container", MAC),
            _entry(name, MAC),
        ],
    )
    machine = formats.read_manifest(BUILT[name].manifest_bytes, NAME)
    manifests = {sha256(name.encode()): machine, sha256(b"container"): container}
    entries = formats.candidates(index, [MAC, LINUX], NAME)
    found = [entry for entry in entries if formats.format_of(manifests[entry.digest]) is not None]
    assert [entry.digest for entry in found] == [sha256(name.encode())]
    assert not any(entry.platform == Platform(os="unknown", architecture="unknown") for entry in entries)


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_index_without_this_platform(name: str) -> None:
    index = Index(schema_version=2, manifests=[_entry(name, MAC)])
    with pytest.raises(InvalidInput, match="index"):
        formats.candidates(index, [Platform(os="linux", architecture="amd64")], NAME)


def test_chunked_is_preferred_where_an_index_has_one_machine_in_several_formats() -> None:
    index = Index(schema_version=2, manifests=[_entry(name, MAC) for name in ("tart", "agoda", "chunked")])
    order = [entry.digest for entry in formats.candidates(index, [MAC], NAME)]
    assert order == [sha256(name.encode()) for name in ("chunked", "agoda", "tart")]
