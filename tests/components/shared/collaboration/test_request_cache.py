import asyncio
import sqlite3

import pytest

from components.shared.collaboration.request_cache import RequestCache, default_path, request_key
from components.shared.contracts.errors import PipelineError
from components.shared.storage.artifacts import canonical_json

REQUEST = {"model": "m", "messages": [{"role": "user", "content": "hm"}], "temperature": 0.5}


def test_a_request_is_known_by_its_content_alone():
    def key(endpoint="http://a/v1", **changes):
        return request_key(endpoint, canonical_json({**REQUEST, **changes}))

    changes = ({"model": "n"}, {"temperature": 0.6}, {"messages": [{"role": "user", "content": "hm?"}]})
    others = {key("http://b/v1"), *(key(**change) for change in changes)}
    assert key() == key(messages=REQUEST["messages"]) and len(others | {key()}) == 5


def test_a_record_of_an_earlier_version_is_still_found():
    known = "4192a7ff07b418691f6f532759fe4e622633a4cf84164bec76bd53fac81dd7c4"
    assert request_key("http://a/v1", canonical_json(REQUEST)) == known


def test_an_answer_outlives_the_process_and_a_request_without_one_is_known_as_sent(tmp_path):
    async def ask():
        cache = RequestCache(tmp_path / "r.sqlite")
        for key in ("answered", "lost"):
            await cache.sent(key, "http://a", "m")
        assert (await cache.record("answered", 200, "yes")).body == "yes"
        await cache.close()

    asyncio.run(ask())
    again = RequestCache(tmp_path / "r.sqlite")
    assert again.get("answered").body == "yes" and again.get("lost") is None and again.get("never") is None
    assert [again.sends(key) for key in ("answered", "lost", "never")] == [1, 1, 0]
    assert again.answered() == {"answered"}


def test_writers_that_share_a_file_lose_nothing_and_the_first_answer_counts(tmp_path):
    async def ask():
        caches = [RequestCache(tmp_path / "r.sqlite") for _ in range(3)]

        async def one(cache, name, number):
            key = f"{number}"
            await cache.sent(key, "http://a", "m")
            return (await cache.record(key, 200, f"{name} {number}")).body

        answers = await asyncio.gather(*(one(c, n, k) for n, c in enumerate(caches) for k in range(40)))
        for cache in caches:
            await cache.close()
        return [answers[start : start + 40] for start in (0, 40, 80)]

    first, *others = asyncio.run(ask())
    assert all(other == first for other in others)
    assert {body.split()[1] for body in first} == {str(k) for k in range(40)}


def test_writes_that_arrive_together_share_a_transaction(tmp_path, monkeypatch):
    batches = []
    commit = RequestCache._commit
    monkeypatch.setattr(
        RequestCache, "_commit", lambda self, writes: (batches.append(len(writes)), commit(self, writes))
    )

    async def ask():
        cache = RequestCache(tmp_path / "r.sqlite")
        await asyncio.gather(*(cache.sent(str(k), "http://a", "m") for k in range(50)))
        await cache.close()

    asyncio.run(ask())
    assert sum(batches) == 50 and len(batches) <= 2


def test_what_is_no_database_is_named_with_the_remedy(tmp_path):
    (tmp_path / "r.sqlite").write_text("not a database, and long enough to be seen as none" * 20)
    with pytest.raises(PipelineError, match=r"r\.sqlite: file is not a database: mend or remove"):
        RequestCache(tmp_path / "r.sqlite")


def test_a_write_that_fails_is_told_to_who_waits_for_it(tmp_path):
    async def ask():
        cache = RequestCache(tmp_path / "r.sqlite")
        with sqlite3.connect(tmp_path / "r.sqlite") as other:
            other.execute("DROP TABLE requests")
        with pytest.raises(PipelineError, match="no such table"):
            await cache.sent("k", "http://a", "m")

    asyncio.run(ask())


def test_the_record_lies_where_the_environment_says(monkeypatch, tmp_path):
    for variable in ("SRL_RLVR_REQUEST_CACHE", "SRL_RLVR_CHECKPOINTS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert default_path() == tmp_path / "home" / "srl-rlvr" / "requests.sqlite"
    monkeypatch.setenv("SRL_RLVR_CHECKPOINTS", str(tmp_path / "job"))
    assert default_path() == tmp_path / "job" / "requests.sqlite"
    monkeypatch.setenv("SRL_RLVR_REQUEST_CACHE", str(tmp_path / "x"))
    assert default_path() == tmp_path / "x"
