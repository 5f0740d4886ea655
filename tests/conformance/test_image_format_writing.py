"""What every writable image format owes the port `formats.WritableFormat`: what is written is read back."""

import base64
import gzip
import json
from dataclasses import replace
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tests.conformance.golden_images import AUX, DISK, FULL, opened
from tests.support import wire_images
from tests.support.wire_images import ECID, HARDWARE_MODEL, KIB, MAC_ADDRESS, WireImage, sha256
from vzkubelet.errors import InvalidInput
from vzkubelet.images import formats
from vzkubelet.images.formats import Chunked, Content, Display, Encoding, Machine, Stream, Streams, chunked
from vzkubelet.images.formats.artifact import single
from vzkubelet.images.formats.chunk_index import ChunkIndex, PackFrames
from vzkubelet.images.formats.tree import ChunkList
from vzkubelet.model.oci import Descriptor
from vzkubelet.ports import ImageDefaults

WRITABLE = sorted(formats.WRITABLE)


def uploaded(name: str, content: bytes, kind: str) -> tuple[Content, dict[str, bytes]]:
    """A file as the layout of a writable format wants it."""
    image = _image_of(content)
    match name, kind:
        case "agoda", _:
            blob = image.put("x", gzip.compress(content))
            return single(_descriptor(blob), Encoding.GZIP, len(content), sha256(content)), image.blobs
        case "tart", "aux":
            return single(_descriptor(image.put("x", content)), Encoding.IDENTITY, len(content), sha256(content)), (
                image.blobs
            )
        case "tart", _:
            streams = []
            for start in range(0, len(content), 64 * KIB):
                part = content[start : start + 64 * KIB]
                blob = image.put("x", wire_images.apple_frame(part))
                streams.append(Stream((_descriptor(blob),), Encoding.APPLE_LZ4, start, len(part), sha256(part)))
            return Content(len(content), sha256(content), Streams(tuple(streams))), image.blobs
        case _:
            return _chunked(content, image, chunked.DISK_INDEX if kind == "disk" else chunked.AUX_INDEX)


def _chunked(content: bytes, image: WireImage, index_type: str) -> tuple[Content, dict[str, bytes]]:
    pieces = [content[start : start + 4 * KIB] for start in range(0, len(content), 4 * KIB)]
    stored = list(dict.fromkeys(piece for piece in pieces if any(piece)))
    frames = [min(zstandard.compress(piece), piece, key=len) for piece in stored]
    packs, blobs = [], []
    for start in range(0, len(frames), 5):
        digests = b"".join(bytes.fromhex(sha256(piece)[7:]) for piece in stored[start : start + 5])
        packs.append(PackFrames([len(frame) for frame in frames[start : start + 5]], digests))
        blobs.append(_descriptor(image.put("x", b"".join(frames[start : start + 5]))))
    chunks = ChunkList(len(content), 4 * KIB, b"".join(bytes.fromhex(sha256(piece)[7:]) for piece in pieces))
    index, document = chunked.index_blob(ChunkIndex.build(chunks, packs, sha256(content)), index_type)
    image.put(index_type, document)
    return Content(len(content), sha256(content), Chunked(index, tuple(blobs))), image.blobs


def _image_of(content: bytes) -> WireImage:
    return WireImage({"content": len(content)})


def _descriptor(layer: dict[str, Any]) -> Descriptor:
    return Descriptor(media_type=layer["mediaType"], digest=layer["digest"], size=layer["size"])


UPLOADED = {name: (uploaded(name, DISK, "disk"), uploaded(name, AUX, "aux")) for name in WRITABLE}


def written(
    name: str, machine: Machine, image_config: dict[str, object] | None = None, created: str | None = None
) -> WireImage:
    (disk, disk_blobs), (aux, aux_blobs) = UPLOADED[name]
    result = formats.WRITABLE[name].write(machine, disk, aux, image_config=image_config, created=created)
    documents = {sha256(document): document for document in result.documents}
    return WireImage(json.loads(result.manifest), disk_blobs | aux_blobs | documents)


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = words.filter(lambda word: word and "=" not in word)
numbers = st.integers(1, 2**53)


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    os_ = draw(st.sampled_from(["darwin", "linux"]))
    labels = draw(st.dictionaries(words.filter(bool), words, max_size=3))
    return Machine(
        os=os_,
        architecture=draw(st.sampled_from(["arm64", "amd64"])),
        hardware_model=draw(st.binary(min_size=1, max_size=40)) if os_ == "darwin" else b"",
        machine_id=draw(st.binary(min_size=1, max_size=40)),
        defaults=ImageDefaults(
            entrypoint=draw(st.none() | st.lists(words, max_size=3).map(tuple)),
            cmd=draw(st.none() | st.lists(words, max_size=3).map(tuple)),
            env=tuple(draw(st.lists(st.tuples(names, words), max_size=3))),
            working_dir=draw(words),
            user=draw(words),
        ),
        cpu_min=draw(numbers),
        memory_min_bytes=draw(numbers),
        cpu_count=draw(numbers),
        memory_bytes=draw(numbers),
        mac_address=draw(st.binary(min_size=6, max_size=6)).hex(":"),
        display=draw(
            st.none()
            | st.builds(Display, st.integers(1, 99999), st.integers(1, 99999), st.sampled_from(["", "pt", "px"]))
        ),
        display_refit=draw(st.none() | st.booleans()),
        labels=tuple(sorted(labels.items())),
    )


@given(st.sampled_from(WRITABLE), machines())
def test_written_image_is_read_back_with_everything_its_machine_is(name: str, machine: Machine) -> None:
    artifact, found = opened(written(name, machine))
    assert found == machine
    (disk, _), (aux, _) = UPLOADED[name]
    assert (artifact.disk.key, artifact.aux.key) == (disk.key, aux.key)
    assert artifact.disk.raw_digest == sha256(DISK)  # recorded in every format


@pytest.mark.parametrize("name", WRITABLE)
def test_written_image_holds_both_files(name: str) -> None:
    image = written(name, FULL)
    artifact, _ = opened(image)
    assert wire_images.contents(artifact.disk, image.blobs) == DISK
    assert wire_images.contents(artifact.aux, image.blobs) == AUX
    named = [image.manifest["config"], *image.manifest["layers"]]
    for descriptor in named:
        assert len(image.blobs[descriptor["digest"]]) == descriptor["size"]
    if name != "chunked":
        return
    assert image.manifest["config"]["platform"] == {"architecture": "arm64", "os": "darwin"}


@pytest.mark.parametrize("name", WRITABLE)
def test_equal_images_have_equal_bytes_and_the_time_is_said_only_when_asked_for(name: str) -> None:
    assert written(name, FULL).manifest_bytes == written(name, FULL).manifest_bytes
    assert "2026-11-21" not in json.dumps(written(name, FULL).manifest)
    assert "2026-11-21T12:00:00Z" in json.dumps(written(name, FULL, created="2026-11-21T12:00:00Z").manifest)


@pytest.mark.parametrize("name", WRITABLE)
def test_image_config_that_is_given_wins_over_what_the_machine_says(name: str) -> None:
    given: dict[str, object] = {"config": {"Cmd": ["given"], "Labels": {"org.example.team": "given"}}, "author": "me"}
    image = written(name, FULL, given)
    artifact, machine = opened(image)
    assert machine == replace(
        FULL, defaults=replace(FULL.defaults, cmd=("given",)), labels=(("org.example.team", "given"),)
    )
    assert artifact.image_config is not None
    assert json.loads(image.blobs[artifact.image_config.digest])["author"] == "me"


@pytest.mark.parametrize("name", WRITABLE)
@pytest.mark.parametrize("given", [{"config": 1}, {"config": {"Cmd": "ls"}}, {"config": {"Labels": []}}])
def test_image_config_that_is_none_is_not_written(name: str, given: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        written(name, FULL, given)


@pytest.mark.parametrize("name", WRITABLE)
@pytest.mark.parametrize(
    "machine", [replace(FULL, machine_id=b""), replace(FULL, hardware_model=b""), replace(FULL, os="windows")]
)
def test_machine_that_no_image_can_be_of(name: str, machine: Machine) -> None:
    with pytest.raises(InvalidInput):
        written(name, machine)


@pytest.mark.parametrize("name", WRITABLE)
@pytest.mark.parametrize("other", WRITABLE)
def test_contents_of_another_layout_are_a_mistake_of_the_caller(name: str, other: str) -> None:
    if name == other:
        return
    (disk, _), (aux, _) = UPLOADED[other]
    with pytest.raises(ValueError, match="has to be"):
        formats.WRITABLE[name].write(FULL, disk, aux)


@pytest.mark.parametrize("name", WRITABLE)
def test_machine_that_says_nothing_gains_nothing_but_what_tart_insists_on(name: str) -> None:
    machine = Machine("linux", "arm64")
    _, found = opened(written(name, machine))
    if name == "tart":
        assert found.mac_address == opened(written(name, machine))[1].mac_address  # made up, but not at random
        assert int(found.mac_address[:2], 16) & 3 == 2
        assert (found.cpu_count, found.memory_bytes) == (4, 4 * 2**30)
        found = replace(found, mac_address="", cpu_count=0, memory_bytes=0)
    assert found == machine


def test_way_through_all_formats_and_back_loses_nothing() -> None:
    machine = FULL
    for name in ("agoda", "chunked", "tart", "agoda"):
        image = written(name, machine)
        artifact, machine = opened(image)
        assert wire_images.contents(artifact.disk, image.blobs) == DISK
        assert wire_images.contents(artifact.aux, image.blobs) == AUX
    assert machine == FULL


def test_tart_reads_what_is_written_for_it() -> None:
    """As its own reader has it: config first, NVRAM last, keys sorted, figures where it insists on them."""
    image = written("tart", FULL)
    types = [layer["mediaType"] for layer in image.manifest["layers"]]
    assert types[0] == "application/vnd.cirruslabs.tart.config.v1"
    assert set(types[1:-1]) == {"application/vnd.cirruslabs.tart.disk.v2"}
    assert types[-1] == "application/vnd.cirruslabs.tart.nvram.v1"
    assert list(image.manifest) == sorted(image.manifest)
    assert image.manifest["annotations"] == {"org.cirruslabs.tart.uncompressed-disk-size": str(len(DISK))}
    config = json.loads(image.blobs[image.manifest["layers"][0]["digest"]])
    assert config == {
        "version": 1,
        "os": "darwin",
        "arch": "arm64",
        "ecid": base64.b64encode(ECID).decode(),
        "hardwareModel": base64.b64encode(HARDWARE_MODEL).decode(),
        "cpuCountMin": 2,
        "cpuCount": 6,
        "memorySizeMin": 4 * 2**30,
        "memorySize": 8 * 2**30,
        "macAddress": MAC_ADDRESS,
        "display": {"width": 1920, "height": 1200, "unit": "pt"},
        "displayRefit": True,
        "diskFormat": "raw",
    }
    described = json.loads(image.blobs[image.manifest["config"]["digest"]])
    assert described["os"] == "darwin"
    assert described["architecture"] == "arm64"
    assert described["config"]["Labels"]["org.cirruslabs.tart.disk.format"] == "raw"
