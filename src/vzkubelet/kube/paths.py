"""Paths of core/v1 objects, quoted."""

from urllib.parse import quote

CORE = "/api/v1"
PODS = f"{CORE}/pods"
NODES = f"{CORE}/nodes"


def namespaced(namespace: str, resource: str, name: str = "", subresource: str = "") -> str:
    return "/".join([f"{CORE}/namespaces/{quote(namespace, safe='')}/{resource}", *_rest(name, subresource)])


def node(name: str, subresource: str = "") -> str:
    return "/".join([NODES, *_rest(name, subresource)])


def _rest(*parts: str) -> list[str]:
    return [quote(part, safe="") for part in parts if part]
