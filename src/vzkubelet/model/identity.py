"""How things are named inside one node: pods by reference, images by digest."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class PodRef:
    """A pod as every room names it. The UID alone identifies it; the names are for people and for the API."""

    namespace: str
    name: str
    uid: str

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"

    def __str__(self) -> str:
        """``name_namespace(uid)``, as the kubelet writes a pod in messages."""
        return f"{self.name}_{self.namespace}({self.uid})"
