"""Environment variables as the kubelet makes them."""

import pytest

from vzkubelet import errors
from vzkubelet.model import meta, objects
from vzkubelet.model import pod as api
from vzkubelet.podstate import environment

POD = api.Pod(
    metadata=meta.ObjectMeta(name="p", namespace="ns", uid="u", labels={"a": "1", "b": 'x"y'}),
    spec=api.PodSpec(node_name="n", service_account_name="sa"),
)
SECRET = objects.Secret(metadata=meta.ObjectMeta(name="s"), data={"key": b"hidden"})
CONFIG = objects.ConfigMap(metadata=meta.ObjectMeta(name="c"), data={"data-1": "value-1"})
FACTS = environment.Facts(
    {"s": SECRET}, {"c": CONFIG}, pod_ip="10.0.0.2", host_ip="10.0.0.1", allocatable_cpu_milli=4000
)


def resolved(*env: api.EnvVar, env_from: list[api.EnvFromSource] | None = None, **fields: object) -> dict[str, str]:
    container = api.Container(name="vm", env=list(env), env_from=env_from, **fields)  # type: ignore[arg-type]
    pod = api.Pod(metadata=POD.metadata, spec=api.PodSpec(containers=[container], node_name="n"))
    return dict(environment.resolve(pod, container, FACTS))


def of_field(path: str) -> api.EnvVar:
    return api.EnvVar("V", value_from=api.EnvVarSource(field_ref=api.ObjectFieldSelector(path)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(A)", "1"),
        ("$$(A)", "$(A)"),
        ("$(B)", "$(B)"),
        ("x$(A)y$(A)", "x1y1"),
        ("$", "$"),
        ("$A", "$A"),
        ("$(A", "$(A"),
        ("$$$(A)", "$1"),
        ("", ""),
    ],
)
def test_expansion(text: str, expected: str) -> None:
    assert environment.expand(text, {"A": "1"}) == expected


def test_later_variables_see_earlier_ones() -> None:
    assert resolved(api.EnvVar("A", "1"), api.EnvVar("B", "$(A)2"), api.EnvVar("C", "$(D)"))["B"] == "12"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("metadata.name", "p"),
        ("metadata.labels['a']", "1"),
        ("metadata.labels['none']", ""),
        ("metadata.labels", 'a="1"\nb="x\\"y"'),
        ("spec.nodeName", "n"),
        ("status.podIP", "10.0.0.2"),
        ("status.hostIP", "10.0.0.1"),
    ],
)
def test_fields_of_the_pod(path: str, expected: str) -> None:
    assert resolved(of_field(path))["V"] == expected


def test_unknown_field_is_a_configuration_error() -> None:
    with pytest.raises(errors.InvalidInput, match=r"status\.phase") as caught:
        resolved(of_field("status.phase"))
    assert caught.value.reason == "CreateContainerConfigError"


def test_keys_of_objects_and_whole_objects_with_a_prefix() -> None:
    key = api.EnvVar("K", value_from=api.EnvVarSource(secret_key_ref=api.KeySelector("s", "key")))
    whole = [api.EnvFromSource(prefix="p-", config_map_ref=api.EnvFromReference("c"))]
    assert resolved(key, env_from=whole) == {"p-data-1": "value-1", "K": "hidden"}


@pytest.mark.parametrize(
    ("selector", "text"),
    [
        (api.KeySelector("absent", "key"), 'secret "absent" not found'),
        (api.KeySelector("s", "absent"), "couldn't find key absent in Secret ns/s"),
    ],
)
def test_missing_secret_or_key_is_a_configuration_error(selector: api.KeySelector, text: str) -> None:
    with pytest.raises(errors.NotFound) as caught:
        resolved(api.EnvVar("K", value_from=api.EnvVarSource(secret_key_ref=selector)))
    assert (str(caught.value), caught.value.reason) == (text, "CreateContainerConfigError")


def test_optional_absent_key_sets_nothing() -> None:
    absent = api.KeySelector("absent", "key", optional=True)
    assert resolved(api.EnvVar("K", value_from=api.EnvVarSource(secret_key_ref=absent))) == {}


@pytest.mark.parametrize(
    ("resource", "divisor", "expected"),
    [
        ("requests.cpu", None, "1"),
        ("requests.cpu", "1m", "250"),
        ("requests.memory", "1Mi", "32"),
        ("limits.cpu", None, "4"),
    ],
)
def test_resources_round_up_and_fall_back_to_the_node(resource: str, divisor: str | None, expected: str) -> None:
    source = api.EnvVarSource(resource_field_ref=api.ResourceFieldSelector(resource, divisor=divisor))
    requests = api.ResourceRequirements(requests={"cpu": "250m", "memory": "32Mi"})
    assert resolved(api.EnvVar("R", value_from=source), resources=requests)["R"] == expected


def test_service_links_cover_the_namespace_and_always_the_api_server() -> None:
    def service(namespace: str, name: str) -> objects.Service:
        spec = objects.ServiceSpec("10.96.0.1", [objects.ServicePort(443, "https")])
        return objects.Service(metadata=meta.ObjectMeta(name=name, namespace=namespace), spec=spec)

    services = [service("default", "kubernetes"), service("ns", "my-web"), service("other", "far")]
    container = api.Container(name="vm")
    facts = environment.Facts(services=services)
    variables = dict(environment.resolve(POD, container, facts))
    assert variables["MY_WEB_PORT_443_TCP_ADDR"] == "10.96.0.1"
    assert variables["KUBERNETES_SERVICE_PORT_HTTPS"] == "443"
    assert not any(name.startswith("FAR_") for name in variables)
