from vzkubelet.model.node import ContainerImage
from vzkubelet.node import images


def image(size_bytes: int, *names: str) -> ContainerImage:
    return ContainerImage(names=list(names), size_bytes=size_bytes)


def test_the_largest_come_first_and_the_rest_is_left_out() -> None:
    found = images.listed([image(1, "a"), image(3, "c"), image(2, "b")], 2)
    assert [entry.names for entry in found] == [["c"], ["b"]]
    assert len(images.listed([image(n, str(n)) for n in range(100)], -1)) == 100
    assert images.listed([image(1, "a")], 0) == []


def test_the_order_does_not_depend_on_who_listed_first() -> None:
    """Hazard: two images of one size take turns, and each turn is a write of the node's status."""
    some = [image(1, "b"), image(1, "a"), image(1, "c")]
    assert images.listed(some, -1) == images.listed(reversed(some), -1)


def test_an_image_with_many_tags_shows_five_names_and_one_without_any_none() -> None:
    names = [f"repo:{n}" for n in range(9)]
    assert images.listed([image(1, *names), image(2)], -1) == [image(1, *names[:5])]
