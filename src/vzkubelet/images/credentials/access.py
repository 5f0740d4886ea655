"""`ports.ImageAccess` of a node: Docker's config, credential provider plugins, and the records of pulls."""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path

from vzkubelet import aio
from vzkubelet.config import CredentialVerification
from vzkubelet.errors import Error, Unavailable
from vzkubelet.images.credentials.docker_logins import DockerLogins
from vzkubelet.images.credentials.providers import Providers
from vzkubelet.images.credentials.pull_records import MATCHED_LIMIT, Credentials, Intent, PullRecords
from vzkubelet.images.credentials.verification import Verification
from vzkubelet.model.docker_config import Candidate, RegistryCredential
from vzkubelet.model.reference import Reference, parse
from vzkubelet.ports import Image, ImageKind, WantedImage

_log = logging.getLogger(__name__)
Find = Callable[[str], Awaitable[Image | None]]
"""An image by a reference to it, where it is on this host."""
Finders = Mapping[ImageKind, Find]


class _Unknown(Enum):
    """Instead of an image: nobody can say whether it is there."""

    UNKNOWN = "unknown"


_UNKNOWN = _Unknown.UNKNOWN


class NodeImageAccess:
    """One for a node; several on one directory of records, in whatever processes, agree."""

    def __init__(
        self,
        root: Path,
        verification: Verification | None = None,
        docker: DockerLogins | None = None,
        providers: Callable[[], Providers] | None = None,
    ) -> None:
        """`root` is where the records are. `providers` loads the plugins when a login is wanted for the first time, and
        raises InvalidInput: who only removes what is here does not need them."""
        self._records = PullRecords(root)
        self._verification = verification or Verification(CredentialVerification.NEVER_PRELOADED)
        self._docker = docker
        self._load_providers = providers
        self._providers: Providers | None = None
        self._in_flight: Counter[Intent] = Counter()
        self._unknown: set[Intent] | None = None
        """References of which nobody can say how what lies under them came: their pull died."""
        self._reading = asyncio.Lock()

    async def node_candidates(self, image: Reference) -> tuple[Candidate, ...]:
        logins: list[RegistryCredential] = []
        if self._docker is not None:
            try:
                logins += await self._docker.lookup(image)
            except Error as exc:
                _log.warning("the Docker config gives no login for %s: %s", image.repository, exc)
        try:
            async with self._reading:
                if self._providers is None and self._load_providers is not None:
                    self._providers = await aio.run_blocking(self._load_providers)
            if self._providers is not None:
                logins += await self._providers.lookup(image)
        except Error as exc:
            _log.warning("the credential providers give no login for %s: %s", image.repository, exc)
        return tuple(map(Candidate, dict.fromkeys(logins)))

    async def may_use(
        self, wanted: WantedImage, image_id: str, own: Callable[[], Awaitable[Sequence[Candidate]]]
    ) -> bool:
        reference = wanted.reference
        try:
            await self._settle(wanted, image_id)
            record = await aio.run_blocking(self._records.pulled, wanted.kind, image_id)
            pulled = record is not None or await aio.run_blocking(self._records.is_intended, _intent(wanted))
        except (OSError, ValueError) as exc:
            _log.warning("who may use %s is proved anew: %s", reference, exc)
            return False
        if not self._verification.is_needed(wanted.text, pulled_for_pods=pulled):
            return True
        opened = None if record is None else record.credential_mapping.get(reference.repository)
        if opened is None or opened.node_pods_accessible:
            return opened is not None
        if not opened.kubernetes_secrets:
            return False
        candidates = await own()
        try:
            return await aio.run_blocking(self._is_opened, wanted, image_id, opened, candidates)
        except OSError as exc:
            _log.warning("who may use %s is proved anew: %s", reference, exc)
            return False

    @contextlib.asynccontextmanager
    async def pulling(self, wanted: WantedImage) -> AsyncIterator["_Recording"]:
        intent = _intent(wanted)
        try:
            unknown = await self._left_unknown()
            await aio.run_blocking(self._records.intend, intent)
        except OSError as exc:
            raise Unavailable(
                f"Failed to record image pull intent for container image {wanted.text}: {exc.strerror}",
                reason="ErrImagePull",
            ) from exc
        recording = _Recording(self._records, wanted)
        self._in_flight[intent] += 1
        failed = False
        try:
            yield recording
        except Error:
            failed = True  # nothing new lies under the name
            raise
        finally:
            self._in_flight[intent] -= 1
            if recording.is_done:
                unknown.discard(intent)
            elif not failed:
                unknown.add(intent)
            if intent not in unknown and not self._in_flight[intent]:
                with contextlib.suppress(OSError):
                    self._records.forget_intent(intent)  # one unlink: not worth a thread that a cancellation leaves

    async def recover(self, finders: Finders) -> None:
        """Settle what pulls that died have left, before the first one: what they brought opens to nobody, what they
        did not bring is forgotten. Never fails: what cannot be found out is settled when a pod wants the image."""
        try:
            for intent in sorted(await self._left_unknown(), key=str):
                found = await _found(finders.get(intent.kind), intent.image)
                if found is not _UNKNOWN:
                    image_id = None if found is None else found.image_id
                    await self._settle_as(intent, image_id)
        except OSError as exc:
            _log.warning("records of pulled images: %s", exc)

    async def prune(self, finders: Finders, before: float) -> None:
        """Forget images that are gone. `before` is when looking began, in seconds since the epoch.

        Raises:
            Unavailable: the records cannot be read.
        """
        try:
            for record in await aio.run_blocking(self._records.records):
                # An ID without repository, of an engine, leads its finder nowhere.
                may_go = "@" in record.image_id and record.last_updated_time.timestamp() < before
                if may_go and await _found(finders.get(record.kind), record.image_id) is None:
                    await aio.run_blocking(self._records.remove, record)
        except OSError as exc:
            raise Unavailable(f"records of pulled images: {exc.strerror}") from exc

    async def close(self) -> None:
        if self._providers is not None:
            await self._providers.close()

    async def _left_unknown(self) -> set[Intent]:
        """Read before the first pull of ours, whose intents are none of these."""
        async with self._reading:
            if self._unknown is None:
                self._unknown = set(await aio.run_blocking(self._records.intents))
            return self._unknown

    async def _settle(self, wanted: WantedImage, image_id: str) -> None:
        """Give an image whose pull died before its record was written a record that opens it to nobody."""
        intent = _intent(wanted)
        if intent in await self._left_unknown() and not self._in_flight[intent]:
            await self._settle_as(intent, image_id)

    async def _settle_as(self, intent: Intent, image_id: str | None) -> None:
        if image_id is not None:
            repository = parse(intent.image).repository
            await aio.run_blocking(self._records.add, intent.kind, image_id, repository, None)
        (await self._left_unknown()).discard(intent)
        await aio.run_blocking(self._records.forget_intent, intent)

    def _is_opened(
        self, wanted: WantedImage, image_id: str, opened: Credentials, candidates: Sequence[Candidate]
    ) -> bool:
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
                    self._records.add(wanted.kind, image_id, wanted.reference.repository, Credentials((offered,)))
                return True
        return False


class _Recording:
    """`ports.PullRecording`; `is_done` when the record is on disk."""

    def __init__(self, records: PullRecords, wanted: WantedImage) -> None:
        self._records = records
        self._wanted = wanted
        self.is_done = False

    async def succeeded(self, image_id: str, used: Candidate | None) -> None:
        try:
            await aio.run_blocking(self._add, image_id, used)
        except OSError as exc:
            # The intent stays, so that the image opens to nobody for free.
            _log.warning("the pull of %s is not recorded: %s", self._wanted.reference, exc)
        else:
            self.is_done = True

    def _add(self, image_id: str, used: Candidate | None) -> None:
        secret = None if used is None else self._records.secret(used)
        credentials = Credentials(node_pods_accessible=True) if secret is None else Credentials((secret,))
        self._records.add(self._wanted.kind, image_id, self._wanted.reference.repository, credentials)


def _intent(wanted: WantedImage) -> Intent:
    return Intent(wanted.kind, str(wanted.reference))


async def _found(find: Find | None, name: str) -> Image | _Unknown | None:
    """Whoever cannot say keeps what is remembered: an image without a record would open to everybody."""
    try:
        return _UNKNOWN if find is None else await find(name)
    except Error:
        return _UNKNOWN
