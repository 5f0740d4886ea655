"""TokenReview and SelfSubjectReview (authentication.k8s.io/v1), SubjectAccessReview (authorization.k8s.io/v1)."""

from vzkubelet.model.meta import Object


class UserInfo(Object, frozen=True):
    username: str = ""
    uid: str = ""
    groups: list[str] | None = None
    extra: dict[str, list[str]] | None = None


class TokenReviewSpec(Object, frozen=True):
    token: str = ""
    audiences: list[str] | None = None


class TokenReviewStatus(Object, frozen=True):
    authenticated: bool = False
    user: UserInfo = UserInfo()
    audiences: list[str] | None = None
    error: str = ""


class TokenReview(Object, frozen=True):
    api_version: str = "authentication.k8s.io/v1"
    kind: str = "TokenReview"
    spec: TokenReviewSpec = TokenReviewSpec()
    status: TokenReviewStatus = TokenReviewStatus()


class SelfSubjectReviewStatus(Object, frozen=True):
    user_info: UserInfo = UserInfo()


class SelfSubjectReview(Object, frozen=True):
    api_version: str = "authentication.k8s.io/v1"
    kind: str = "SelfSubjectReview"
    status: SelfSubjectReviewStatus = SelfSubjectReviewStatus()


class ResourceAttributes(Object, frozen=True):
    namespace: str = ""
    verb: str = ""
    group: str = ""
    version: str = ""
    resource: str = ""
    subresource: str = ""
    name: str = ""


class SubjectAccessReviewSpec(Object, frozen=True):
    resource_attributes: ResourceAttributes | None = None
    user: str = ""
    groups: list[str] | None = None
    extra: dict[str, list[str]] | None = None
    uid: str = ""


class SubjectAccessReviewStatus(Object, frozen=True):
    allowed: bool = False
    denied: bool = False
    reason: str = ""
    evaluation_error: str = ""


class SubjectAccessReview(Object, frozen=True):
    api_version: str = "authorization.k8s.io/v1"
    kind: str = "SubjectAccessReview"
    spec: SubjectAccessReviewSpec = SubjectAccessReviewSpec()
    status: SubjectAccessReviewStatus = SubjectAccessReviewStatus()
