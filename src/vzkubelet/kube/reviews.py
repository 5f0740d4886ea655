"""Who sent a request to the kubelet API, and may they: asked of the API server, answered without any cache."""

from collections.abc import Mapping, Sequence

from vzkubelet.errors import Unavailable, clip
from vzkubelet.kube.client import Client
from vzkubelet.model.review import (
    ResourceAttributes,
    SelfSubjectReview,
    SubjectAccessReview,
    SubjectAccessReviewSpec,
    TokenReview,
    TokenReviewSpec,
    UserInfo,
)

AUTHENTICATION_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
SELF_REVIEWS = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"


class Reviews:
    """Raises of all calls: Forbidden (this agent may not ask), Unavailable, DeadlineExceeded."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def own_name(self) -> str:
        """Whom the API server takes us for: the name in the client certificate, or, with a token, what it says."""
        name = await self._client.user_name()
        if name:
            return name
        answer = await self._client.create(SELF_REVIEWS, SelfSubjectReview(), SelfSubjectReview)
        return answer.status.user_info.username

    async def token_review(self, token: str, audiences: Sequence[str] = ()) -> UserInfo | None:
        """Whose bearer token it is; None when it is nobody's. No audiences = the API server's own."""
        spec = TokenReviewSpec(token=token, audiences=list(audiences) or None)
        answer = await self._client.create(AUTHENTICATION_REVIEWS, TokenReview(spec=spec), TokenReview)
        if not answer.status.authenticated:
            return None
        if audiences and not set(audiences) & set(answer.status.audiences or ()):
            return None  # an authenticator that knows no audiences answers without them
        return answer.status.user

    async def subject_access_review(
        self,
        *,
        user: str,
        groups: Sequence[str] = (),
        uid: str = "",
        extra: Mapping[str, Sequence[str]] | None = None,
        verb: str,
        resource: str,
        subresource: str = "",
        name: str = "",
        namespace: str = "",
    ) -> bool:
        """Whether the user may do `verb` on the core/v1 resource; Unavailable when no authorizer could decide."""
        spec = SubjectAccessReviewSpec(
            user=user,
            groups=list(groups) or None,
            uid=uid,
            extra={key: list(values) for key, values in (extra or {}).items()} or None,
            resource_attributes=ResourceAttributes(
                namespace=namespace, verb=verb, version="v1", resource=resource, subresource=subresource, name=name
            ),
        )
        answer = await self._client.create(ACCESS_REVIEWS, SubjectAccessReview(spec=spec), SubjectAccessReview)
        if not answer.status.allowed and answer.status.evaluation_error:
            raise Unavailable(f"authorization of {user} not decided: {clip(answer.status.evaluation_error)}")
        return answer.status.allowed and not answer.status.denied
