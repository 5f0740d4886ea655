import msgspec
import pytest

from tests.unit.kube.api import Answer, Api, failure
from vzkubelet import errors
from vzkubelet.kube.pod_status import PodStatus
from vzkubelet.kube.reviews import Reviews
from vzkubelet.model.identity import PodRef
from vzkubelet.model.meta import ObjectMeta
from vzkubelet.model.pod import Pod

POD = Pod(metadata=ObjectMeta(namespace="ns", name="p", uid="u-1"))
REF = PodRef("ns", "p", "u-1")


async def test_a_status_patch_always_carries_the_uid() -> None:
    api = Api([Answer(body={"status": {"phase": "Running"}})])
    stored = await PodStatus(api.client()).write_status(POD, b'{"status":{"phase":"Running","podIP":null}}')
    assert stored.status.phase == "Running"
    [request] = api.requests
    assert request.path == "/api/v1/namespaces/ns/pods/p/status"
    assert request.headers["Content-Type"] == "application/strategic-merge-patch+json"
    assert api.bodies("PATCH") == [{"metadata": {"uid": "u-1"}, "status": {"phase": "Running", "podIP": None}}]


@pytest.mark.parametrize(
    ("code", "reason", "message"),
    [
        (422, "Invalid", 'Pod "p" is invalid: metadata.uid: Invalid value: "u-1": field is immutable'),
        (409, "Conflict", "uid mismatch: the provided object specified uid u-1, and no existing object was found"),
        (403, "Forbidden", 'node "n" can only update pod status for pods with spec.nodeName set to itself'),
        (404, "NotFound", 'pods "p" not found'),
    ],
)
async def test_a_pod_that_was_made_again_counts_as_gone(code: int, reason: str, message: str) -> None:
    api = Api([failure(code, reason, message)])
    with pytest.raises(errors.NotFound):
        await PodStatus(api.client()).write_status(POD, b"{}")


@pytest.mark.parametrize(
    ("code", "reason", "expected"), [(409, "Conflict", errors.Conflict), (422, "Invalid", errors.InvalidInput)]
)
async def test_other_faults_stay_what_they_are(code: int, reason: str, expected: type[errors.Error]) -> None:
    api = Api([failure(code, reason, "status.phase: Invalid value")])
    with pytest.raises(expected):
        await PodStatus(api.client()).write_status(POD, b"{}")


async def test_deletion_is_forced_and_guarded() -> None:
    api = Api([Answer(body={})])
    await PodStatus(api.client()).delete(REF)
    [options] = api.bodies("DELETE")
    assert options["gracePeriodSeconds"] == 0
    assert options["preconditions"] == {"uid": "u-1"}


@pytest.mark.parametrize(
    ("code", "reason", "message"),
    [
        (404, "NotFound", "x"),
        (409, "Conflict", "Precondition failed: UID in precondition: u-1, UID in object meta: u-2"),
    ],
)
async def test_a_pod_that_is_gone_is_deleted(code: int, reason: str, message: str) -> None:
    await PodStatus(Api([failure(code, reason, message)]).client()).delete(REF)


async def test_another_conflict_is_not_taken_for_deleted() -> None:
    with pytest.raises(errors.Conflict):
        await PodStatus(Api([failure(409, "Conflict", "the object has been modified")]).client()).delete(REF)


async def test_a_token_review_tells_the_user() -> None:
    api = Api([Answer(201, {"status": {"authenticated": True, "user": {"username": "me", "groups": ["g"]}}})])
    user = await Reviews(api.client()).token_review("t")
    assert user is not None
    assert (user.username, user.groups) == ("me", ["g"])
    assert api.bodies("POST")[0]["spec"] == {"token": "t"}


@pytest.mark.parametrize(
    "status", [{"authenticated": False}, {}, {"authenticated": True, "user": {"username": "me"}, "audiences": ["b"]}]
)
async def test_a_token_of_nobody_or_for_others_is_nobodys(status: dict[str, object]) -> None:
    api = Api([Answer(201, {"status": status})])
    assert await Reviews(api.client()).token_review("t", ["a"]) is None


async def test_an_access_review_asks_about_the_node() -> None:
    api = Api([Answer(201, {"status": {"allowed": True}})])
    allowed = await Reviews(api.client()).subject_access_review(
        user="me", groups=["g"], extra={"k": ("v",)}, verb="get", resource="nodes", subresource="stats", name="n"
    )
    assert allowed
    assert api.bodies("POST")[0]["spec"] == {
        "resourceAttributes": {
            "verb": "get",
            "version": "v1",
            "resource": "nodes",
            "subresource": "stats",
            "name": "n",
        },
        "user": "me",
        "groups": ["g"],
        "extra": {"k": ["v"]},
    }


@pytest.mark.parametrize("status", [{"allowed": False}, {"allowed": True, "denied": True}, {}])
async def test_what_is_not_allowed_is_denied(status: dict[str, object]) -> None:
    reviews = Reviews(Api([Answer(201, {"status": status})]).client())
    assert not await reviews.subject_access_review(user="me", verb="get", resource="nodes")


async def test_an_authorizer_that_could_not_decide_is_no_denial() -> None:
    reviews = Reviews(Api([Answer(201, {"status": {"allowed": False, "evaluationError": "etcd is away"}})]).client())
    with pytest.raises(errors.Unavailable, match="etcd is away"):
        await reviews.subject_access_review(user="me", verb="get", resource="nodes")


def test_patches_are_not_reencoded() -> None:
    assert msgspec.json.encode({"a": msgspec.Raw(b'{"b":  null}')}) == b'{"a":{"b":  null}}'
