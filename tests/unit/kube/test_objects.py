import asyncio
import base64

import pytest

from tests.unit.kube.api import Answer, Api, LoopClock, failure
from vzkubelet import errors
from vzkubelet.kube.objects import KubeObjects
from vzkubelet.kube.transport import Request
from vzkubelet.model.meta import ObjectMeta
from vzkubelet.model.pod import Pod, PodSpec


def objects(api: Api) -> KubeObjects:
    return KubeObjects(api.client(), LoopClock())


SECRET = {"data": {"k": base64.b64encode(b"v").decode()}}
POD = Pod(metadata=ObjectMeta(namespace="ns", name="p", uid="u"), spec=PodSpec(service_account_name="robot"))


async def test_a_secret_is_read_by_its_name() -> None:
    api = Api([Answer(body=SECRET)])
    assert (await objects(api).secret("ns", "s")).data == {"k": b"v"}
    assert api.requests[0].path == "/api/v1/namespaces/ns/secrets/s"


async def test_a_missing_object_has_the_kubelets_text() -> None:
    api = Api(lambda _: failure(404, "NotFound", 'secrets "s" not found'))
    with pytest.raises(errors.NotFound, match=r'^secret "s" not found$'):
        await objects(api).secret("ns", "s")
    with pytest.raises(errors.NotFound, match=r'^configmap "c" not found$'):
        await objects(api).config_map("ns", "c")


async def test_a_refusal_right_after_the_binding_is_asked_again() -> None:
    api = Api([failure(403, "Forbidden"), failure(403, "Forbidden"), Answer(body=SECRET)])
    assert (await objects(api).secret("ns", "s")).data == {"k": b"v"}


async def test_a_read_right_after_the_binding_waits_for_the_authorizer() -> None:
    api = Api(lambda _: Answer(body=SECRET))
    reader = objects(api)
    reader.pod_bound("ns")
    await asyncio.gather(reader.secret("ns", "s"), reader.secret("other", "s"))
    assert dict(zip([r.path.split("/")[4] for r in api.requests], api.times, strict=True)) == {"other": 0, "ns": 0.2}
    await reader.config_map("ns", "c")
    assert api.times[-1] == 0.2


async def test_a_lasting_refusal_is_believed_within_seconds() -> None:
    api = Api(lambda _: failure(403, "Forbidden", "no relationship found"))
    with pytest.raises(errors.Forbidden, match="no relationship found"):
        await objects(api).secret("ns", "s")
    assert 2 < asyncio.get_running_loop().time() <= 5


async def test_concurrent_reads_are_one_request_and_later_ones_are_fresh() -> None:
    api = Api(lambda _: Answer(body=SECRET))
    reader = objects(api)
    await asyncio.gather(*(reader.secret("ns", "s") for _ in range(10)))
    assert len(api.requests) == 1
    await asyncio.sleep(1.01)
    await reader.secret("ns", "s")
    assert len(api.requests) == 2


async def test_a_failed_read_is_not_shared_with_later_readers() -> None:
    api = Api([failure(404, "NotFound"), Answer(body=SECRET)])
    reader = objects(api)
    with pytest.raises(errors.NotFound):
        await reader.secret("ns", "s")
    assert (await reader.secret("ns", "s")).data == {"k": b"v"}


async def test_a_cancelled_reader_does_not_take_the_answer_from_the_others() -> None:
    api = Api([failure(403, "Forbidden"), Answer(body=SECRET)])
    reader = objects(api)
    first = asyncio.Task(reader.secret("ns", "s"))
    second = asyncio.Task(reader.secret("ns", "s"))
    await asyncio.sleep(0.01)
    first.cancel()
    assert (await second).data == {"k": b"v"}
    assert first.cancelled()


async def test_the_api_servers_own_service_joins_the_namespaces() -> None:
    def answer(request: Request) -> Answer:
        if request.path == "/api/v1/namespaces/ns/services":
            return Answer(body={"items": [{"metadata": {"name": "web"}, "spec": {"clusterIP": "10.0.0.5"}}]})
        return Answer(body={"metadata": {"name": "kubernetes"}, "spec": {"clusterIP": "10.0.0.1"}})

    found = await objects(Api(answer)).services("ns")
    assert [(s.metadata.name, s.spec.cluster_ip) for s in found] == [("web", "10.0.0.5"), ("kubernetes", "10.0.0.1")]


async def test_a_token_is_bound_to_the_pod() -> None:
    api = Api([Answer(201, {"status": {"token": "jwt"}})])
    assert await objects(api).service_account_token(POD, "vault", 3600) == "jwt"
    assert api.requests[0].path == "/api/v1/namespaces/ns/serviceaccounts/robot/token"
    assert api.bodies("POST")[0]["spec"] == {
        "audiences": ["vault"],
        "expirationSeconds": 3600,
        "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"},
    }


async def test_without_audience_none_is_asked_for() -> None:
    api = Api([Answer(201, {"status": {"token": "jwt"}})])
    await objects(api).service_account_token(POD, "", 3600)
    assert "audiences" not in api.bodies("POST")[0]["spec"]
