"""Which subresource a path asks for, and how long answers are remembered."""

import asyncio

import pytest

from vzkubelet import errors
from vzkubelet.model.review import UserInfo
from vzkubelet.server.authentication import AUTHENTICATED_GROUP, with_authenticated_group
from vzkubelet.server.authorization import Attributes, attributes, forbidden_text
from vzkubelet.server.reviews import MAX_CACHED, OpinionCache


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/stats/summary", Attributes("get", ("stats",))),
        ("GET", "/metrics", Attributes("get", ("metrics",))),
        ("GET", "/metrics/resource", Attributes("get", ("metrics",))),
        ("GET", "/logs/syslog", Attributes("get", ("log",))),
        ("POST", "/checkpoint/ns/p/c", Attributes("create", ("checkpoint",))),
        ("GET", "/pods", Attributes("get", ("pods", "proxy"))),
        ("GET", "/pods/", Attributes("get", ("pods", "proxy"))),
        ("GET", "/runningpods/", Attributes("get", ("pods", "proxy"))),
        ("GET", "/healthz/syncloop", Attributes("get", ("healthz", "proxy"))),
        ("GET", "/configz", Attributes("get", ("configz", "proxy"))),
        ("GET", "/podsandmore", Attributes("get", ("proxy",))),
        ("GET", "/statsx", Attributes("get", ("proxy",))),
        ("GET", "/containerLogs/ns/p/c", Attributes("get", ("proxy",))),
        ("POST", "/exec/ns/p/c", Attributes("create", ("proxy",))),
        ("GET", "/exec/ns/p/c", Attributes("create", ("proxy",))),
        ("GET", "/attach/ns/p/c", Attributes("create", ("proxy",))),
        ("GET", "/portForward/ns/p", Attributes("create", ("proxy",))),
        ("PUT", "/debug/flags/v", Attributes("update", ("proxy",))),
        ("DELETE", "/", Attributes("delete", ("proxy",))),
        ("PATCH", "", Attributes("patch", ("proxy",))),
        ("OPTIONS", "/pods", Attributes("", ("pods", "proxy"))),
    ],
)
def test_attributes(method: str, path: str, expected: Attributes):
    assert attributes(method, path) == expected


def test_forbidden_is_the_kubelets_text():
    text = forbidden_text(UserInfo(username="jane"), Attributes("get", ("pods", "proxy")))
    assert text == "Forbidden (user=jane, verb=get, resource=nodes, subresource(s)=[pods proxy])\n"


def test_authenticated_users_are_in_their_group_once():
    once = with_authenticated_group(UserInfo(username="jane"))
    assert once.groups == [AUTHENTICATED_GROUP]
    assert with_authenticated_group(once) is once


class Asked:
    """Answers with what it is told, and counts."""

    def __init__(self) -> None:
        self.count = 0
        self.answer: bool | Exception = True
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self) -> bool:
        self.count += 1
        await self.gate.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Hours:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_answers_live_as_long_as_they_deserve():
    ask, clock = Asked(), Hours()
    cache: OpinionCache[str, bool] = OpinionCache(lambda allowed: 300.0 if allowed else 30.0, clock)
    for answer, life_s in ((True, 300.0), (False, 30.0)):
        ask.answer = answer
        asked = ask.count
        for after_s, questions in ((0.0, 1), (life_s - 1, 1), (life_s, 2)):
            clock.now = 1000.0 * (1 + answer) + after_s
            assert await cache.get(f"key {answer}", ask) is answer
            assert ask.count - asked == questions


async def test_the_same_question_at_once_is_asked_once():
    ask = Asked()
    ask.gate.clear()
    cache: OpinionCache[str, bool] = OpinionCache(lambda _: 60.0, Hours())
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(cache.get("key", ask)) for _ in range(5)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.sleep(0)
        ask.gate.set()
    assert [task.result() for task in waiting[1:]] == [True] * 4
    assert ask.count == 2, "the one who asked was cancelled; the next asked again"
    assert cache._locks == {}


async def test_failures_are_not_remembered():
    ask = Asked()
    ask.answer = errors.Unavailable("no API server")
    cache: OpinionCache[str, bool] = OpinionCache(lambda _: 60.0, Hours())
    with pytest.raises(errors.Unavailable):
        await cache.get("key", ask)
    ask.answer = True
    assert await cache.get("key", ask)


async def test_ever_new_keys_do_not_fill_the_memory():
    cache: OpinionCache[int, bool] = OpinionCache(lambda _: 60.0, Hours())
    for key in range(MAX_CACHED + 100):
        await cache.get(key, Asked())
    assert len(cache._answers) == MAX_CACHED
