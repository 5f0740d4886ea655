"""May they: each request is a verb on a subresource of this node, judged by the API server (SubjectAccessReview).

The table is the kubelet's (pkg/kubelet/server/auth.go) with fine-grained authorization: some paths are tried under a
narrow subresource first and under ``proxy`` then; the first that is allowed wins. One difference, on purpose: streams
into a container ask for ``create`` whatever their HTTP method, so that read access to ``nodes/proxy`` is no shell.
"""

from dataclasses import dataclass
from typing import Final

from vzkubelet.aio import Clock
from vzkubelet.model.review import UserInfo
from vzkubelet.server.reviews import OpinionCache, Reviews

_VERBS: Final = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_SUBRESOURCES: Final[dict[str, tuple[str, ...]]] = {
    "pods": ("pods", "proxy"),
    "runningpods": ("pods", "proxy"),
    "healthz": ("healthz", "proxy"),
    "configz": ("configz", "proxy"),
    "stats": ("stats",),
    "metrics": ("metrics",),
    "logs": ("log",),
    "checkpoint": ("checkpoint",),
    "statusz": ("statusz",),
    "flagz": ("configz",),
}
_STREAMS: Final = frozenset({"exec", "attach", "portForward", "run"})


@dataclass(frozen=True, slots=True)
class Attributes:
    """What is asked for. `verb` is empty for a method that has none: nobody may do that."""

    verb: str
    subresources: tuple[str, ...]


def attributes(method: str, path: str) -> Attributes:
    first = path.split("/", 2)[1] if path.startswith("/") else ""
    verb = "create" if first in _STREAMS else _VERBS.get(method, "")
    return Attributes(verb, _SUBRESOURCES.get(first, ("proxy",)))


def forbidden_text(user: UserInfo, asked: Attributes) -> str:
    """The kubelet's words."""
    subresources = " ".join(asked.subresources)
    return f"Forbidden (user={user.username}, verb={asked.verb}, resource=nodes, subresource(s)=[{subresources}])\n"


class Authorizer:
    """Asks for each subresource in order and remembers the answers."""

    def __init__(
        self,
        reviews: Reviews,
        node_name: str,
        *,
        authorized_cache_s: float,
        unauthorized_cache_s: float,
        clock: Clock,
    ) -> None:
        self._reviews = reviews
        self._node_name = node_name
        self._answers: OpinionCache[tuple[object, ...], bool] = OpinionCache(
            lambda allowed: authorized_cache_s if allowed else unauthorized_cache_s, clock.monotonic
        )

    async def allowed(self, user: UserInfo, asked: Attributes) -> bool:
        """Raises what `Reviews.subject_access_review` raises."""
        if not asked.verb:
            return False
        for subresource in asked.subresources:
            if await self._ask(user, asked.verb, subresource):
                return True
        return False

    async def _ask(self, user: UserInfo, verb: str, subresource: str) -> bool:
        groups = tuple(user.groups or ())
        extra = tuple(sorted((name, tuple(values)) for name, values in (user.extra or {}).items()))
        return await self._answers.get(
            (user.username, user.uid, groups, extra, verb, subresource),
            lambda: self._reviews.subject_access_review(
                user=user.username,
                groups=groups,
                uid=user.uid,
                extra=user.extra,
                verb=verb,
                resource="nodes",
                subresource=subresource,
                name=self._node_name,
            ),
        )
