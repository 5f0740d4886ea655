"""`ports.ImageAccess` of a node: Docker's config, credential provider plugins, and the records of pulls."""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

from vzkubelet import aio
from vzkubelet.config import CredentialVerification
from vzkubelet.errors import Error, Unavailable
from vzkubelet.images.credentials.docker_logins import DockerLogins
from vzkubelet.images.credentials.providers import Providers
from vzkubelet.images.credentials.pull_records import MATCHED_LIMIT, Credentials, PullRecords
from vzkubelet.images.credentials.verification import Verification
from vzkubelet.model.docker_config import Candidate, RegistryCredential
from vzkubelet.model.reference import Reference

_log = logging.getLogger(__name__)
Find = Callable[[str], Awaitable[object | None]]
"""An image by its ID, where it is on this host."""


class NodeImageAccess:
    """One for a node; several on one directory of records, in whatever processes, agree."""

    def __init__(
        self,
        root: Path,
        verification: Verification | None = None,
        docker: DockerLogins | None = None,
        providers: Providers | None = None,
    ) -> None:
        """`root` is where the records are."""
        self._records = PullRecords(root)
        self._verification = verification or Verification(CredentialVerification.NEVER_PRELOADED)
        self._docker = docker
        self._providers = providers
        self._in_flight: Counter[str] = Counter()
        self._unknown: set[str] | None = None
        """References of which nobody can say how what lies under them came: their pull died."""
        self._reading = asyncio.Lock()

    async def node_candidates(self, image: Reference) -> tuple[Candidate, ...]:
        logins: list[RegistryCredential] = []
        if self._docker is not None:
            try:
                logins += await self._docker.lookup(image)
            except Error as exc:
                _log.warning("the Docker config gives no login for %s: %s", image.repository, exc)
        if self._providers is not None:
            logins += await self._providers.lookup(image)
        return tuple(map(Candidate, dict.fromkeys(logins)))

    async def may_use(
        self, text: str, image: Reference, image_id: str, own: Callable[[], Awaitable[Sequence[Candidate]]]
    ) -> bool:
        try:
            await self._settle(image, image_id)
            record = await aio.run_blocking(self._records.pulled, image_id)
            pulled = record is not None or await aio.run_blocking(self._records.is_intended, str(image))
        except (OSError, ValueError) as exc:
            _log.warning("who may use %s is proved anew: %s", image, exc)
            return False
        if not self._verification.is_needed(text, pulled_for_pods=pulled):
            return True
        opened = None if record is None else record.credential_mapping.get(image.repository)
        if opened is None or opened.node_pods_accessible:
            return opened is not None
        if not opened.kubernetes_secrets:
            return False
        candidates = await own()
        try:
            return await aio.run_blocking(self._is_opened, image, image_id, opened, candidates)
        except OSError as exc:
            _log.warning("who may use %s is proved anew: %s", image, exc)
            return False

    @contextlib.asynccontextmanager
    async def pulling(self, image: Reference) -> AsyncIterator["_Recording"]:
        name = str(image)
        try:
            unknown = await self._left_unknown()
            await aio.run_blocking(self._records.intend, name)
        except OSError as exc:
            raise Unavailable(
                f"Failed to record image pull intent for container image {name}: {exc.strerror}", reason="ErrImagePull"
            ) from exc
        recording = _Recording(self._records, image)
        self._in_flight[name] += 1
        failed = False
        try:
            yield recording
        except Error:
            failed = True  # nothing new lies under the name
            raise
        finally:
            self._in_flight[name] -= 1
            if recording.is_done:
                unknown.discard(name)
            elif not failed:
                unknown.add(name)
            if name not in unknown and not self._in_flight[name]:
                with contextlib.suppress(OSError):
                    self._records.forget_intent(name)  # one unlink: not worth a thread that a cancellation leaves

    async def prune(self, finders: Sequence[Find], before: float) -> None:
        """Forget images that no finder finds. `before` is when looking began, in seconds since the epoch.

        Raises:
            Unavailable: the records cannot be read.
        """
        try:
            for image_id in await aio.run_blocking(self._records.image_ids, before):
                if await _is_gone(image_id, finders):
                    await aio.run_blocking(self._records.remove, image_id, before)
        except OSError as exc:
            raise Unavailable(f"records of pulled images: {exc.strerror}") from exc

    async def close(self) -> None:
        if self._providers is not None:
            await self._providers.close()

    async def _left_unknown(self) -> set[str]:
        """Read before the first pull of ours, whose intents are none of these."""
        async with self._reading:
            if self._unknown is None:
                self._unknown = set(await aio.run_blocking(self._records.intents))
            return self._unknown

    async def _settle(self, image: Reference, image_id: str) -> None:
        """Give an image whose pull died before its record was written a record that opens it to nobody."""
        name, unknown = str(image), await self._left_unknown()
        if name not in unknown or self._in_flight[name]:
            return
        await aio.run_blocking(self._records.add, image_id, image.repository, None)
        unknown.discard(name)
        await aio.run_blocking(self._records.forget_intent, name)

    def _is_opened(self, image: Reference, image_id: str, opened: Credentials, candidates: Sequence[Candidate]) -> bool:
        """Whether one of a pod's logins is among those that have pulled the image. Another secret with the same login
        counts, and so does the same secret after a change; both are remembered."""
        has_room = len(opened.kubernetes_secrets) < MATCHED_LIMIT
        for candidate in candidates:
            offered = self._records.secret(candidate)
            if offered is None:
                continue
            for known in opened.kubernetes_secrets:
                is_same_login = offered.credential_hash == known.credential_hash
                if not is_same_login and not (offered.is_same_secret(known) and has_room):
                    continue
                if has_room and offered not in opened.kubernetes_secrets:
                    self._records.add(image_id, image.repository, Credentials((offered,)))
                return True
        return False


class _Recording:
    """`ports.PullRecording`; `is_done` when the record is on disk."""

    def __init__(self, records: PullRecords, image: Reference) -> None:
        self._records = records
        self._image = image
        self.is_done = False

    async def succeeded(self, image_id: str, used: Candidate | None) -> None:
        try:
            await aio.run_blocking(self._add, image_id, used)
        except OSError as exc:
            # The intent stays, so that the image opens to nobody for free.
            _log.warning("the pull of %s is not recorded: %s", self._image, exc)
        else:
            self.is_done = True

    def _add(self, image_id: str, used: Candidate | None) -> None:
        secret = None if used is None else self._records.secret(used)
        credentials = Credentials(node_pods_accessible=True) if secret is None else Credentials((secret,))
        self._records.add(image_id, self._image.repository, credentials)


async def _is_gone(image_id: str, finders: Sequence[Find]) -> bool:
    """Whoever cannot say keeps the record: an image without one would open to everybody."""
    for find in finders:
        try:
            if await find(image_id) is not None:
                return False
        except Error:
            return False
    return True
