"""What single image formats refuse, in which words."""

import json

import pytest

from tests.conformance.golden_images import DISK, GOLDEN, opened, refusal, with_config
from tests.support.wire_images import WireImage, sha256


@pytest.mark.parametrize("name", ["agoda", "chunked", "tart", "tart-v1", "lume", "lume-single"])
def test_system_that_is_said_twice_and_not_the_same(name: str) -> None:
    image = with_config(GOLDEN[name].build(), lambda document: document.update({"os": "linux"}))
    assert "the manifest says os darwin, config.json says linux" in refusal(image)


@pytest.mark.parametrize("name", ["tart", "tart-v1"])
@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("cpuCount", "4"),
        ("cpuCount", -1),
        ("memorySize", 2**64),
        ("memorySizeMin", True),
        ("macAddress", "../x"),
        ("display", []),
        ("display", {"width": 1, "height": 1, "unit": "em"}),
        ("displayRefit", "yes"),
    ],
)
def test_figures_of_a_machine_that_are_none(name: str, member: str, value: object) -> None:
    refusal(with_config(GOLDEN[name].build(), lambda document: document.update({member: value})))


@pytest.mark.parametrize("name", ["agoda", "chunked"])
@pytest.mark.parametrize(
    ("label", "value"),
    [("cpu-min", "two"), ("memory-bytes", "-1"), ("display", "big"), ("mac-address", "x"), ("display-refit", "yes")],
)
def test_labels_of_a_machine_that_are_malformed(name: str, label: str, value: str) -> None:
    image = GOLDEN[name].build()
    described = opened(image)[0].image_config
    assert described is not None
    document = json.loads(image.blobs[described.digest])
    document["config"]["Labels"][f"macos-vz-kubelet.machine.{label}"] = value
    image.blobs[described.digest] = json.dumps(document).encode()
    assert f"label macos-vz-kubelet.machine.{label}" in refusal(image)


def _change(name: str, member: str, value: object) -> WireImage:
    image = GOLDEN[name].build()
    if member.startswith("label:"):
        described = image.manifest["config"]["digest"]
        document = json.loads(image.blobs[described])
        document["config"]["Labels"][member[6:]] = value
        image.blobs[described] = json.dumps(document).encode()
        return image
    return with_config(image, lambda document: document.update({member: value}))


@pytest.mark.parametrize("member", ["diskFormat", "label:org.cirruslabs.tart.disk.format"])
@pytest.mark.parametrize("name", ["tart", "tart-v1"])
def test_tart_disk_in_another_format_is_refused_with_the_way_out(name: str, member: str) -> None:
    text = refusal(_change(name, member, "asif"))
    assert "a disk in format asif cannot be read: push it again from a standalone virtual machine" in text


def test_tart_stacked_disk_is_refused_and_never_read_without_its_overlay() -> None:
    image = GOLDEN["tart"].build()
    overlay = image.put("application/vnd.cirruslabs.tart.disk.asif.overlay.v1", b"overlay")
    image.manifest["layers"].insert(-1, overlay)
    assert "a stacked disk" in refusal(image)


@pytest.mark.parametrize("name", ["tart", "lume", "lume-lz4"])
def test_parts_of_different_sizes_are_refused(name: str) -> None:
    """They would not have a digest of chunks; no writer makes them."""
    image = GOLDEN[name].build()
    parts = [layer for layer in image.manifest["layers"] if "disk" in layer["mediaType"] or "lz4" in layer["mediaType"]]
    for annotation, text in parts[1]["annotations"].items():
        if annotation.endswith("uncompressed-size"):
            parts[1]["annotations"][annotation] = str(int(text) + 1)
    refusal(image)


def test_tart_disk_that_is_not_as_large_as_the_manifest_says() -> None:
    image = GOLDEN["tart"].build()
    image.manifest["annotations"]["org.cirruslabs.tart.uncompressed-disk-size"] = str(len(DISK) + 1)
    assert f"the disk has {len(DISK) + 1} bytes, its parts have {len(DISK)}" in refusal(image)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        ("org.trycua.lume.part.offset", "512"),
        ("org.trycua.lume.part.number", "7"),
        ("org.trycua.lume.part.number", "one"),
        ("org.trycua.lume.part.total", "99"),
    ],
)
def test_lume_parts_that_do_not_make_a_disk(annotation: str, value: str) -> None:
    """An image with lost parts was published once: pulled, the gaps read as zeros."""
    image = GOLDEN["lume"].build()
    image.layer("application/vnd.trycua.lume.disk.v1")["annotations"][annotation] = value
    refusal(image)


def test_lume_lz4_with_fewer_parts_than_its_configuration_says() -> None:
    image = GOLDEN["lume-lz4"].build()
    image.manifest["layers"].remove(image.layer("application/octet-stream+lz4"))
    assert "parts of the disk are missing" in refusal(image)


def test_lume_oldest_chunks_are_refused_with_the_way_out() -> None:
    image = GOLDEN["lume-lz4"].build()
    for layer in image.manifest["layers"]:
        layer["mediaType"] = layer["mediaType"].replace(
            "application/octet-stream+lz4", "application/vnd.trycua.lume.disk.chunk.lz4"
        )
    assert "push it again with a newer lume" in refusal(image)


def test_lume_lzfse_is_refused_with_the_way_out() -> None:
    image = GOLDEN["lume-lz4"].build()
    for layer in image.manifest["layers"]:
        layer["mediaType"] = layer["mediaType"].replace("+lz4", "+lzfse;part.number=1;part.total=2")
    assert "push it again with a newer lume" in refusal(image)


def test_chunked_index_that_is_about_something_else() -> None:
    for change in ("raw-size", "raw-digest"):
        image = GOLDEN["chunked"].build()
        annotations = image.layer("application/vnd.macos-vz-kubelet.disk.index.v1")["annotations"]
        annotations[f"macos-vz-kubelet.{change}"] = "4096" if change == "raw-size" else sha256(b"other")
        assert "is not about the file in the manifest" in refusal(image)
    image = GOLDEN["chunked"].build()
    image.layer("application/vnd.macos-vz-kubelet.disk.pack.v1", 1)["size"] += 1
    assert "is not about the packs in the manifest" in refusal(image)


@pytest.mark.parametrize(("layer", "size"), [("disk.index.v1", 32 * 2**20 + 1), ("aux.pack.v1", 2**28 + 1)])
def test_chunked_layers_have_limits(layer: str, size: int) -> None:
    image = GOLDEN["chunked"].build()
    image.layer(f"application/vnd.macos-vz-kubelet.{layer}")["size"] = size
    assert "allowed" in refusal(image)


@pytest.mark.parametrize("name", ["tart", "tart-v1", "lume", "lume-single", "lume-lz4", "lume-raw"])
def test_artifact_type_of_tools_that_were_told_none_is_none(name: str) -> None:
    """Images pushed with ORAS have it, Lume's published ones among them."""
    image = GOLDEN[name].build()
    image.manifest["artifactType"] = "application/vnd.unknown.artifact.v1"
    assert opened(image) == opened(GOLDEN[name].build())
    image.manifest["artifactType"] = "application/vnd.example.other"
    assert "an artifact of type application/vnd.example.other" in refusal(image)
