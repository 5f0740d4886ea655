import asyncio
from pathlib import Path

import pytest

from tests.unit.kube.api import Answer, Api, failure
from vzkubelet import errors
from vzkubelet.kube.client import BURST, QPS, Patch
from vzkubelet.kube.kubeconfig import Access
from vzkubelet.model.objects import ConfigMap, TokenRequest, TokenRequestSpec

PATH = "/api/v1/namespaces/ns/configmaps/c"


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (400, "BadRequest", errors.InvalidInput),
        (401, "Unauthorized", errors.Unauthenticated),
        (403, "Forbidden", errors.Forbidden),
        (404, "NotFound", errors.NotFound),
        (409, "Conflict", errors.Conflict),
        (409, "AlreadyExists", errors.AlreadyExists),
        (410, "Expired", errors.Gone),
        (422, "Invalid", errors.InvalidInput),
        (429, "TooManyRequests", errors.Unavailable),
        (500, "InternalError", errors.Unavailable),
        (503, "ServiceUnavailable", errors.Unavailable),
        (504, "Timeout", errors.Unavailable),
    ],
)
async def test_a_status_becomes_the_error_it_stands_for(code: int, reason: str, expected: type[errors.Error]) -> None:
    api = Api([failure(code, reason, "configmaps is sad")])
    with pytest.raises(errors.Error) as caught:
        await api.client().get(PATH, ConfigMap)
    assert type(caught.value) is expected
    assert caught.value.reason == reason
    assert str(caught.value) == "configmaps is sad"


async def test_an_answer_is_decoded_and_unknown_fields_are_passed_over() -> None:
    api = Api([Answer(body={"data": {"k": "v"}, "immutable": True, "metadata": {"name": "c"}})])
    got = await api.client().get(PATH, ConfigMap)
    assert got.data == {"k": "v"}


async def test_a_proxy_page_instead_of_an_object_is_no_answer_of_an_api_server() -> None:
    api = Api([Answer(body=b"<html>welcome</html>")])
    with pytest.raises(errors.Unavailable, match="something else than ConfigMap"):
        await api.client().get(PATH, ConfigMap)


async def test_an_error_page_is_clipped_into_the_message() -> None:
    api = Api([Answer(502, b"<html>\n" + b"bad gateway " * 1000)])
    with pytest.raises(errors.Unavailable, match="502 to GET") as caught:
        await api.client().get(PATH, ConfigMap)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


async def test_retry_after_is_waited_for_and_asked_again() -> None:
    busy = failure(429, "TooManyRequests", headers={"retry-after": "3"})
    api = Api([busy, busy, Answer(body={"data": {"k": "v"}})])
    assert (await api.client().get(PATH, ConfigMap)).data == {"k": "v"}
    assert api.times == [0, 3, 6]


async def test_a_server_that_always_asks_to_wait_is_given_up() -> None:
    api = Api(lambda _: failure(503, "ServiceUnavailable", headers={"Retry-After": "1"}))
    with pytest.raises(errors.Unavailable):
        await api.client().get(PATH, ConfigMap)
    assert len(api.requests) == 6


async def test_a_retry_after_of_hours_is_cut() -> None:
    api = Api([failure(429, "TooManyRequests", headers={"Retry-After": "9999"}), Answer(body={})])
    await api.client().get(PATH, ConfigMap)
    assert api.times == [0, 30]


async def test_without_retry_after_nothing_is_asked_twice() -> None:
    api = Api([failure(500, "InternalError")])
    with pytest.raises(errors.Unavailable):
        await api.client().create(PATH, {}, ConfigMap)
    assert len(api.requests) == 1


async def test_each_kind_of_patch_has_its_content_type() -> None:
    api = Api(lambda _: Answer(body={}))
    client = api.client()
    for kind in Patch:
        await client.patch(PATH, kind, {"a": 1}, ConfigMap)
    assert [r.headers["Content-Type"] for r in api.requests] == [
        "application/strategic-merge-patch+json",
        "application/merge-patch+json",
        "application/json-patch+json",
    ]
    assert api.bodies("PATCH") == [{"a": 1}] * 3


async def test_deletion_carries_grace_and_uid() -> None:
    api = Api([Answer(body={})])
    await api.client().delete(PATH, grace_s=0, uid="u-1")
    [options] = api.bodies("DELETE")
    assert options["gracePeriodSeconds"] == 0
    assert options["preconditions"] == {"uid": "u-1"}


async def test_structs_are_written_with_their_wire_names() -> None:
    api = Api([Answer(201, {"status": {"token": "t"}})])
    request = TokenRequest(spec=TokenRequestSpec(audiences=["a"], expiration_seconds=600))
    await api.client().create(PATH, request, TokenRequest)
    assert api.bodies("POST") == [{"spec": {"audiences": ["a"], "expirationSeconds": 600}}]


async def test_no_more_than_the_kubelets_rate_goes_out() -> None:
    api = Api(lambda _: Answer(body={}))
    client = api.client()
    count = BURST + 100
    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(client.get(PATH, ConfigMap))
    assert api.times[-1] == pytest.approx((count - BURST) / QPS)


async def test_the_lease_does_not_wait_behind_other_requests() -> None:
    api = Api(lambda _: Answer(body={}))
    client = api.client()
    async with asyncio.TaskGroup() as group:
        for _ in range(BURST + 100):
            group.create_task(client.get(PATH, ConfigMap))
        await asyncio.sleep(0)
        await client.get("/lease", ConfigMap, throttle=False)
        assert asyncio.get_running_loop().time() == 0


async def test_a_refused_token_file_is_read_again_once(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old\n")
    access = Access("http://localhost:1", token_file=token)
    api = Api(
        [failure(401, "Unauthorized"), Answer(body={}), failure(401, "Unauthorized"), failure(401, "Unauthorized")]
    )
    client = api.client(access)
    token.write_text("new\n")
    await client.get(PATH, ConfigMap)
    with pytest.raises(errors.Unauthenticated):
        await client.get(PATH, ConfigMap)
    assert [r.headers["Authorization"] for r in api.requests] == ["Bearer new"] * 4


async def test_a_refused_certificate_is_not_tried_twice() -> None:
    api = Api([failure(401, "Unauthorized")])
    with pytest.raises(errors.Unauthenticated):
        await api.client().get(PATH, ConfigMap)
    assert len(api.requests) == 1


async def test_a_stream_that_is_refused_raises_what_the_status_says() -> None:
    api = Api([failure(410, "Expired")])
    with pytest.raises(errors.Gone):
        async with api.client().stream(PATH, {"watch": True}, timeout_s=5):
            pass


async def test_bytes_go_out_as_they_are() -> None:
    api = Api([Answer(body={})])
    await api.client().patch(PATH, Patch.MERGE, b'{"a":  1}', ConfigMap)
    assert api.requests[0].body == b'{"a":  1}'


def test_secrets_do_not_show_in_representations() -> None:
    shown = repr(Access("https://h", token="hush", client_key=b"hush"))
    assert "hush" not in shown
