"""The other API objects an agent reads: Secret, ConfigMap, Service, TokenRequest."""

import msgspec

from vzkubelet.model.meta import ListMeta, Object, ObjectMeta, ObjectReference


class Secret(Object, frozen=True):
    """`data` is base64 on the wire and bytes here."""

    metadata: ObjectMeta = ObjectMeta()
    type: str = ""
    data: dict[str, bytes] | None = None


class ConfigMap(Object, frozen=True):
    metadata: ObjectMeta = ObjectMeta()
    data: dict[str, str] | None = None
    binary_data: dict[str, bytes] | None = None


class ServicePort(Object, frozen=True):
    port: int
    name: str = ""
    protocol: str = "TCP"


class ServiceSpec(Object, frozen=True):
    cluster_ip: str = msgspec.field(default="", name="clusterIP")
    ports: list[ServicePort] | None = None


class Service(Object, frozen=True):
    metadata: ObjectMeta = ObjectMeta()
    spec: ServiceSpec = ServiceSpec()


class ServiceList(Object, frozen=True):
    metadata: ListMeta = ListMeta()
    items: list[Service] = []


class TokenRequestSpec(Object, frozen=True):
    audiences: list[str] = []
    expiration_seconds: int | None = None
    bound_object_ref: ObjectReference | None = None


class TokenRequestStatus(Object, frozen=True):
    token: str = ""
    expiration_timestamp: str = ""


class TokenRequest(Object, frozen=True):
    api_version: str = "authentication.k8s.io/v1"
    kind: str = "TokenRequest"
    spec: TokenRequestSpec = TokenRequestSpec()
    status: TokenRequestStatus | None = None
