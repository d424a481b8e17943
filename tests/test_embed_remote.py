"""The dangers: paying twice, a key in a log, a service that is flooded, a vector that belongs to another text."""

from __future__ import annotations

import email.utils
import pickle
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nearfield as nf
from nearfield import errors
from nearfield.embed import (
    CacheWarning,
    CohereEmbedder,
    Embedder,
    GoogleEmbedder,
    OllamaEmbedder,
    OpenAIEmbedder,
    from_identity,
    resolve,
)
from nearfield.embed.cache import VectorCache, key_of
from nearfield.embed.prompts import prompts_of
from nearfield.embed.remote import _batches
from nearfield.remote import MINUTE, Clock, Limits, estimated_tokens
from wires import DIMENSION, Server, VirtualClock, cut, fails, running, slow, vector

KEY = "sk-very-secret-0123456789"
VARIABLES = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "GOOGLE_API_KEY", "GEMINI_API_KEY", "CO_API_KEY", "COHERE_API_KEY")
WIRES: dict[str, tuple[Any, str, str]] = {
    "openai": (OpenAIEmbedder, "test-model", "/v1"),
    "google": (GoogleEmbedder, "test-model", "/v1beta"),
    "cohere": (CohereEmbedder, "test-model", "/v2"),
    "ollama": (OllamaEmbedder, "test-model", ""),
}


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (*VARIABLES, "OLLAMA_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NEARFIELD_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def server() -> Iterator[Server]:
    with running() as server:
        yield server


def make(server: Server, wire: str = "openai", **options: Any) -> Any:
    kind, model, path = WIRES[wire]
    options = {"api_key": KEY, "clock": VirtualClock(), "base_url": server.url + path, "progress": False} | options
    return kind(model, **options)


def expected(texts: list[str]) -> np.ndarray:
    return np.array([vector(text) for text in texts], dtype=np.float32)


# Formats


@pytest.mark.parametrize(
    ("wire", "path", "header", "roles"),
    [
        ("openai", "/v1/embeddings", ("authorization", f"Bearer {KEY}"), ("", "")),
        (
            "google",
            "/v1beta/models/test-model:batchEmbedContents",
            ("x-goog-api-key", KEY),
            ("RETRIEVAL_DOCUMENT", "RETRIEVAL_QUERY"),
        ),
        ("cohere", "/v2/embed", ("authorization", f"Bearer {KEY}"), ("search_document", "search_query")),
        ("ollama", "/api/embed", ("authorization", f"Bearer {KEY}"), ("", "")),
    ],
)
def test_each_format_asks_and_reads_as_its_service_does(
    server: Server, wire: str, path: str, header: tuple[str, str], roles: tuple[str, str]
) -> None:
    embedder = make(server, wire, cache=False)
    assert isinstance(embedder, Embedder)
    texts = ["The cat sat.", "Ünïcödé 猫", "last"]
    documents, queries = embedder.encode_documents(texts), embedder.encode_queries(texts)
    assert documents.dtype == queries.dtype == np.float32
    for found, role in ((documents, roles[0]), (queries, roles[1])):
        np.testing.assert_allclose(found, [vector(text, role) for text in texts], rtol=1e-6)
    for asked, headers, body in server.requests:
        assert asked == path
        assert {name.lower(): value for name, value in headers.items()}[header[0]] == header[1]
        assert KEY not in asked + str(body)
    assert embedder.dimension == DIMENSION
    assert embedder.encode_documents([]).shape == (0, DIMENSION)


def test_openai_itself_is_asked_for_base64(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nearfield.embed.openai._HOME", f"{server.url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    embedder = OpenAIEmbedder("text-embedding-3-small", dimensions=DIMENSION)
    np.testing.assert_array_equal(embedder.encode_documents(["a", "b"]), expected(["a", "b"]))
    body = server.requests[0][2]
    assert (body["encoding_format"], body["dimensions"], body["model"]) == ("base64", 8, "text-embedding-3-small")
    assert (embedder.identity, embedder.max_tokens) == ("openai:text-embedding-3-small:8", 8191)


def test_dimensions_reach_every_service(server: Server) -> None:
    names = {"openai": "dimensions", "cohere": "output_dimension", "ollama": "dimensions"}
    for wire in WIRES:
        make(server, wire, dimensions=DIMENSION).encode_documents(["x"])
        body = server.requests[-1][2]
        asked = body["requests"][0]["outputDimensionality"] if wire == "google" else body[names[wire]]
        assert asked == DIMENSION


def test_models_that_want_prompts_get_them(server: Server) -> None:
    embedder = OllamaEmbedder("nomic-embed-text:latest", base_url=server.url, progress=False)
    embedder.encode_documents(["x"])
    embedder.encode_queries(["x"])
    assert server.texts == ["search_document: x", "search_query: x"]
    plain = OllamaEmbedder("nomic-embed-text", base_url=server.url, prompts=("", ""))
    assert plain.identity == "ollama:nomic-embed-text" != embedder.identity
    google = GoogleEmbedder("gemini-embedding-2", base_url=server.url, api_key=KEY, dimensions=DIMENSION)
    google.encode_queries(["x"])
    assert server.requests[-1][2]["requests"][0].get("taskType") is None
    assert server.texts[-1] == "task: search result | query: x"
    assert prompts_of("intfloat/e5-large-v2") == ("passage: ", "query: ")
    assert prompts_of("text-embedding-3-small") == ("", "")


# What passes


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(
    ("trouble", "least_wait"),
    [
        ([fails(429, retry_after="7")], 7.0),
        ([fails(429, retry_after_ms="2500")], 2.5),
        ([fails(429, {"error": {"details": [{"retryDelay": "34s"}]}})], 34.0),
        ([fails(429)], 0.5),
        ([fails(429, retry_after="soon")], 0.5),
        ([fails(500), fails(502, b"<html>bad gateway</html>"), fails(503)], 3.5),
        ([cut], 0.5),
        ([fails(200, b"<html>a login page</html>")], 0.5),
        ([fails(200, b"")], 0.5),
    ],
    ids=["429 seconds", "429 ms", "429 body", "429", "429 odd", "500s", "cut", "html", "nothing"],
)
def test_what_passes_is_waited_for(server: Server, wire: str, trouble: list[Any], least_wait: float) -> None:
    server.script.extend(trouble)
    embedder = make(server, wire, cache=False, batch_size=2, concurrency=1)
    roles = {"google": "RETRIEVAL_DOCUMENT", "cohere": "search_document"}
    wanted = [vector(text, roles.get(wire, "")) for text in "abc"]
    np.testing.assert_allclose(embedder.encode_documents(list("abc")), wanted, rtol=1e-6)
    clock = embedder.service.clock
    assert sum(clock.waits) >= least_wait
    assert embedder.usage.retries == len(trouble)
    assert embedder.usage.requests == 2


def test_retry_after_may_be_a_date(server: Server) -> None:
    server.script.append(fails(503, retry_after=email.utils.formatdate(time.time() + 100, usegmt=True)))
    embedder = make(server)
    embedder.encode_documents(["x"])
    assert 40 < sum(embedder.service.clock.waits) < 110  # less the time that this took


def test_a_slow_answer_is_asked_for_again(server: Server) -> None:
    server.script.append(slow(1.0))
    embedder = make(server, timeout=0.5)
    np.testing.assert_array_equal(embedder.encode_documents(["x"]), expected(["x"]))
    assert embedder.usage.retries >= 1  # a busy machine may be slow by itself


def test_waiting_grows_with_chance_and_has_a_bound(server: Server) -> None:
    server.always = fails(500)
    embedder = make(server, retries=9)
    with pytest.raises(errors.RemoteError):
        embedder.encode_documents(["x"])
    assert embedder.service.clock.waits == [0.5, 1, 2, 4, 8, 15, 15, 15, 15]  # half of the bound: chance is 0.5 here


# What does not pass


def refused() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


FINAL: dict[str, tuple[Any, type[errors.RemoteError], str]] = {
    "revoked key": (
        fails(401, {"error": {"message": f"Incorrect API key provided: {KEY}."}}),
        errors.Unauthorized,
        r"does not accept the key \(status 401\): Incorrect API key provided: <key>\.; check api_key=",
    ),
    "forbidden": (fails(403, {"message": "no access"}), errors.Unauthorized, r"status 403\): no access"),
    "no such model": (fails(404, {"error": "model 'x' not found"}), errors.RemoteError, "404: model 'x' not found"),
    "spent": (
        fails(429, {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}),
        errors.RateLimited,
        "takes no more requests on this account: You exceeded",
    ),
    "always 429": (fails(429), errors.RateLimited, "still wants fewer requests after 6 retries"),
    "a long pause": (fails(429, retry_after="3600"), errors.RateLimited, "asks to wait 3600 s, more than max_wait=120"),
    "always 500": (fails(500, b"boom\n\x1b[31mred"), errors.RemoteError, r"failed with status 500: boom \[31mred"),
    "always cut": (cut, errors.Unreachable, "was cut"),
    "always garbage": (fails(200, b"\xff\xfe nonsense"), errors.RemoteError, "not JSON"),
    "no embeddings": (fails(200, {"hello": "world"}), errors.RemoteError, "JSON that holds no embeddings"),
    "a list": (fails(200, [1, 2]), errors.RemoteError, "JSON that holds no embeddings"),
    "redirect": (fails(301, b"", location="https://elsewhere.example/v1"), errors.RemoteError, "elsewhere.example"),
    "one missing": (
        fails(200, {"data": [{"index": 0, "embedding": [1.0] * 8}]}),
        errors.RemoteError,
        "returned 1 vectors for 2 texts",
    ),
    "ragged": (
        fails(200, {"data": [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": [1.0, 2.0]}]}),
        errors.RemoteError,
        "holds no embeddings",
    ),
    "empty vectors": (
        fails(200, {"data": [{"index": 0, "embedding": []}, {"index": 1, "embedding": []}]}),
        errors.RemoteError,
        r"shape \(2, 0\)",
    ),
    "not a number": (
        fails(200, b'{"data": [{"index": 0, "embedding": [NaN]}, {"index": 1, "embedding": [1]}]}'),
        errors.RemoteError,
        "NaN or infinity",
    ),
}


@pytest.mark.parametrize("name", FINAL)
def test_what_does_not_pass_is_one_clear_sentence(server: Server, name: str) -> None:
    server.always, kind, message = FINAL[name]
    embedder = make(server)
    with pytest.raises(kind, match=message) as caught:
        embedder.encode_documents(["first", "second"])
    assert type(caught.value) is kind
    assert isinstance(caught.value, (errors.NearfieldError, ConnectionError))
    told = str(caught.value)
    assert "\n" not in told
    assert len(told) < 400
    assert KEY not in told + repr(embedder) + repr(embedder.service)
    assert "127.0.0.1" in told


def test_an_unreachable_host_is_given_up_soon() -> None:
    embedder = OpenAIEmbedder("m", base_url=f"http://127.0.0.1:{refused()}/v1", clock=VirtualClock())
    with pytest.raises(
        errors.Unreachable, match=r"cannot reach the embedding server \(127\.0\.0\.1:\d+\): .*server runs"
    ):
        embedder.encode_documents(["x"])
    assert len(embedder.service.clock.waits) == 2


@pytest.mark.parametrize(
    ("spec", "variable"),
    [
        ("openai:text-embedding-3-small", "OPENAI_API_KEY"),
        ("google:gemini-embedding-001", "GOOGLE_API_KEY or GEMINI_API_KEY"),
        ("cohere:embed-v4.0", "CO_API_KEY or COHERE_API_KEY"),
    ],
)
def test_a_missing_key_is_told_before_anything_is_sent(
    spec: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(errors.Unauthorized, match=f"needs a key: pass api_key=, or set .* {variable}"):
        resolve(spec)
    docs = nf.open().collection("docs", embedder=spec)
    with pytest.raises(errors.Unauthorized, match="needs a key"):
        docs.add(["text"])
    assert docs.count() == 0
    monkeypatch.setenv(variable.split()[-1], KEY)
    assert resolve(spec).identity == spec


def test_a_key_that_is_set_later_counts_at_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CO_API_KEY", "old")
    embedder = CohereEmbedder("m", base_url=f"{server.url}/v2")
    server.script.append(fails(401))
    with pytest.raises(errors.Unauthorized, match="check api_key= or CO_API_KEY"):
        embedder.encode_documents(["x"])
    monkeypatch.setenv("CO_API_KEY", f" {KEY}\n")
    embedder.encode_documents(["x"])
    assert server.requests[-1][1]["authorization"] == f"Bearer {KEY}"


def test_a_key_that_cannot_be_sent_is_not_quoted(server: Server) -> None:
    with pytest.raises(errors.Unauthorized, match="copied whole") as caught:
        make(server, api_key="sk-sécret").encode_documents(["x"])
    assert "cret" not in str(caught.value)
    assert server.requests == []


def test_the_key_of_openai_goes_to_nobody_else(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    OpenAIEmbedder("m", base_url=f"{server.url}/v1").encode_documents(["x"])
    assert "authorization" not in {name.lower() for name in server.requests[0][1]}


# Paying once


def test_what_was_done_before_a_failure_is_kept(server: Server) -> None:
    texts = [f"text {n}" for n in range(10)]
    server.script.extend([None, None, fails(401)])
    embedder = make(server, batch_size=2, concurrency=1)
    with pytest.raises(errors.Unauthorized, match="4 of 10 new texts are done and kept: call again to go on"):
        embedder.encode_documents(texts)
    again = make(server, batch_size=2)
    np.testing.assert_array_equal(again.encode_documents(texts), expected(texts))
    assert sorted(server.texts) == sorted([*texts, *texts[4:6]])  # only the batch that failed went twice
    assert (again.usage.cached, again.usage.requests, again.usage.tokens) == (4, 3, 6)


def test_a_crash_costs_only_what_was_on_its_way(server: Server, tmp_path: Path) -> None:
    code = f"""
import os
from nearfield.embed import OpenAIEmbedder
embedder = OpenAIEmbedder("test-model", base_url="{server.url}/v1", batch_size=1, concurrency=1)
post, sent = embedder.service.post, []
def counted(*words, **more):
    if len(sent) == 5:
        os._exit(9)
    sent.append(1)
    return post(*words, **more)
embedder.service.post = counted
embedder.encode_documents([f"text {{n}}" for n in range(9)])
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 9
    assert len(server.texts) == 5
    texts = [f"text {n}" for n in range(9)]
    np.testing.assert_array_equal(make(server).encode_documents(texts), expected(texts))
    assert sorted(server.texts) == sorted(texts)


@settings(max_examples=30)
@given(
    calls=st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=12), min_size=1, max_size=3),
    size=st.integers(1, 4),
    concurrency=st.integers(1, 3),
)
def test_every_text_gets_its_own_vector_and_is_sent_once(
    server: Server, tmp_path_factory: pytest.TempPathFactory, calls: list[list[str]], size: int, concurrency: int
) -> None:
    server.requests.clear()
    cache = tmp_path_factory.mktemp("cache") / "c.sqlite"
    for texts in calls:
        embedder = make(server, batch_size=size, concurrency=concurrency, cache=cache)
        np.testing.assert_array_equal(embedder.encode_documents(texts), expected(texts))
    assert sorted(server.texts) == sorted(set().union(*calls))


def test_a_text_that_is_refused_is_found_and_the_others_are_kept(server: Server) -> None:
    def picky(handler: Any) -> bool | None:
        if any("bad" in text for text in handler.body["input"]):
            return handler.give(400, {"error": {"message": "input is too long"}})
        return True

    server.always = picky
    texts = ["a", "b", "c", "d", "e", "bad", "f", "g"]
    embedder = make(server)
    with pytest.raises(errors.RemoteError, match=r"texts\[5\], of about 1 tokens: .*input is too long; 5 of 8 new"):
        embedder.encode_documents(texts)
    server.requests.clear()
    embedder.encode_documents(["a", "b", "c", "d", "e"])
    assert server.requests == []


def test_documents_and_queries_models_and_lengths_never_share_a_vector(server: Server) -> None:
    for options in ({}, {"dimensions": DIMENSION}):
        embedder = make(server, "cohere", **options)
        assert not np.array_equal(embedder.encode_documents(["x"]), embedder.encode_queries(["x"]))
    assert len(server.requests) == 4
    CohereEmbedder("other", base_url=f"{server.url}/v2", api_key=KEY).encode_documents(["x"])
    assert len(server.requests) == 5
    openai = make(server)
    openai.encode_documents(["x"])
    openai.encode_queries(["x"])  # the same request for OpenAI: paid for once
    assert len(server.requests) == 6


def test_no_text_is_written_to_the_cache(server: Server) -> None:
    embedder = make(server)
    embedder.encode_documents(["a very private sentence"])
    for file in embedder._cache.path.parent.iterdir():
        assert b"private" not in file.read_bytes()
        assert KEY.encode() not in file.read_bytes()


def test_a_file_that_is_no_cache_is_left_alone_and_work_goes_on(server: Server, tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(b"no database at all" * 100)
    with sqlite3.connect(tmp_path / "other") as db:
        db.execute("CREATE TABLE precious (x)")
    db.close()
    for name in ("noise", "other"):
        before = (tmp_path / name).read_bytes()
        embedder = make(server, cache=tmp_path / name)
        with pytest.warns(CacheWarning, match="cannot be used") as caught:
            np.testing.assert_array_equal(embedder.encode_documents(["x", "y"]), expected(["x", "y"]))
        assert len(caught) == 1
        assert (tmp_path / name).read_bytes() == before


def test_the_cache_has_a_bound_and_forgets_the_oldest(tmp_path: Path) -> None:
    cache = VectorCache(tmp_path / "c", max_bytes=100_000)
    keys = [key_of("m", "", str(n)) for n in range(400)]
    for start in range(0, 400, 20):
        cache.put(keys[start : start + 20], np.full((20, 256), start, dtype=np.float32))
    found = cache.get(keys)
    assert keys[-1] in found
    assert keys[0] not in found
    assert 20 < len(found) < 120
    np.testing.assert_array_equal(found[keys[-1]], np.full(256, 380, dtype=np.float32))


@pytest.mark.parametrize("attempt", range(5))
def test_many_may_make_the_cache_at_the_same_time(tmp_path: Path, attempt: int) -> None:
    done: list[Any] = []

    def work(n: int) -> None:
        cache = VectorCache(tmp_path / "c")
        cache.put([key_of("m", "", str(n))], np.full((1, 4), n, dtype=np.float32))
        done.append(cache._broken)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [False] * 8
    assert len(VectorCache(tmp_path / "c").get([key_of("m", "", str(n)) for n in range(8)])) == 8


# Limits


@given(
    requests=st.none() | st.integers(1, 4),
    tokens=st.none() | st.integers(1, 50),
    steps=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 40)), max_size=25),
)
def test_no_minute_holds_more_than_the_limits(
    requests: int | None, tokens: int | None, steps: list[tuple[int, int]]
) -> None:
    clock = VirtualClock()
    limits = Limits(requests, tokens, clock)
    sent: list[tuple[float, int]] = []
    for cost, pause in steps:
        at = clock.time + limits.reserve(cost)
        # The oracle: the earliest time, not before the last one, whose minute has room.
        candidates = [max(clock.time, sent[-1][0] if sent else 0.0), *(moment + MINUTE for moment, _ in sent)]

        def fits(moment: float, cost: int = cost) -> bool:
            window = [spent for other, spent in sent if other > moment - MINUTE]
            return (requests is None or len(window) < requests) and (
                tokens is None or not window or sum(window) + cost <= tokens
            )

        assert at == pytest.approx(min(c for c in candidates if c >= candidates[0] and fits(c)))
        sent.append((at, cost))
        clock.time += pause


@given(texts=st.lists(st.text(min_size=1, max_size=60), max_size=30), most=st.integers(1, 5), tokens=st.integers(1, 40))
def test_batches_hold_everything_in_order_and_no_more_than_they_may(texts: list[str], most: int, tokens: int) -> None:
    items = [(at, b"", text) for at, text in enumerate(texts)]
    batches = list(_batches(items, most, tokens))
    assert [item for batch in batches for item in batch] == items
    for batch in batches:
        assert 1 <= len(batch) <= most
        assert len(batch) == 1 or sum(estimated_tokens(text) for _, _, text in batch) <= tokens


def test_a_pause_that_was_asked_for_holds_everybody() -> None:
    clock = VirtualClock()
    limits = Limits(None, None, clock)
    assert limits.reserve(1) == 0
    limits.hold(9)
    assert limits.reserve(1) == 9


def test_a_pause_that_a_server_asks_for_holds_other_requests_too(server: Server) -> None:
    class Meanwhile(VirtualClock):
        def wait(self, seconds: float, stop: threading.Event) -> None:
            first = not self.waits
            super().wait(0 if first else seconds, stop)
            if first:  # another thread wants to send while this one waits
                self.waits[0] = seconds
                other.encode_queries(["other"])

    clock = Meanwhile()
    embedder = make(server, clock=clock)
    other = make(server, cache=False)
    other.service = embedder.service
    server.script.append(fails(429, retry_after="30"))
    embedder.encode_documents(["x"])
    assert clock.waits == [30.5, 30]


def test_requests_a_minute_are_kept_over_the_wire(server: Server) -> None:
    embedder = make(server, batch_size=1, requests_per_minute=2, concurrency=1)
    embedder.encode_documents(list("abcde"))
    assert embedder.service.clock.time == pytest.approx(120)


def test_so_many_at_once_and_no_more(server: Server) -> None:
    together = threading.Barrier(3)

    def waiting(handler: Any) -> bool:
        together.wait(30)
        time.sleep(0.02)  # in which a fourth would come
        return True

    server.always = waiting
    make(server, batch_size=1, concurrency=3).encode_documents([str(n) for n in range(12)])
    assert server.most_in_flight == 3


def test_a_failure_ends_the_waiting_of_the_others(server: Server) -> None:
    class Sleepy(Clock):
        def wait(self, seconds: float, stop: threading.Event) -> None:
            assert stop.wait(60), "nobody woke this one"

    arrived = threading.Event()

    def busy(handler: Any) -> None:
        handler.give(429, {})
        arrived.set()

    def revoked(handler: Any) -> None:
        arrived.wait(60)
        time.sleep(0.05)
        handler.give(401, {})

    server.always = lambda handler: busy(handler) if handler.body["input"] == ["a"] else revoked(handler)
    with pytest.raises(errors.Unauthorized):
        make(server, batch_size=1, concurrency=2, clock=Sleepy()).encode_documents(["a", "b", "c"])
    assert sorted(server.texts) == ["a", "b"]  # nothing was sent after the failure


# What an embedder must be


def test_an_embedder_survives_pickle(server: Server) -> None:
    embedder = pickle.loads(pickle.dumps(make(server)))
    np.testing.assert_array_equal(embedder.encode_documents(["x"]), expected(["x"]))


def test_specs_name_every_embedder(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    compatible = resolve(f"openai:bge-m3@{server.url}/v1")
    assert compatible.identity == "openai-compatible:bge-m3"
    assert compatible.dimension == DIMENSION
    assert resolve(f"openai:bge-m3@{server.url}/v1") is compatible
    monkeypatch.setenv("OLLAMA_HOST", server.url.removeprefix("http://"))
    assert resolve("ollama:all-minilm").encode_queries(["x"]).shape == (1, DIMENSION)
    with pytest.raises(errors.InvalidInput, match="name a model"):
        resolve("openai:")


@pytest.mark.parametrize(
    ("make_it", "found"),
    [
        (lambda at: OpenAIEmbedder("text-embedding-3-small", api_key=KEY), True),
        (lambda at: OpenAIEmbedder("text-embedding-3-large", api_key=KEY, dimensions=256), True),
        (lambda at: OpenAIEmbedder("bge-m3", base_url=at), False),  # its address is not known
        (lambda at: GoogleEmbedder("gemini-embedding-001", api_key=KEY, dimensions=768), True),
        (lambda at: CohereEmbedder("embed-v4.0", api_key=KEY), True),
        (lambda at: OllamaEmbedder("qwen3-embedding:8b"), True),
        (lambda at: OllamaEmbedder("all-minilm:33m", dimensions=128), True),
        (lambda at: OllamaEmbedder("nomic-embed-text", dimensions=256), True),
        (lambda at: OllamaEmbedder("nomic-embed-text", prompts=("", "")), False),
        (lambda at: resolve(lambda texts: [[1.0]] * len(texts)), False),
    ],
)
def test_a_remote_embedder_is_found_by_its_identity_or_not_at_all(
    make_it: Any, found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "GOOGLE_API_KEY", "CO_API_KEY"):
        monkeypatch.setenv(name, KEY)
    embedder = make_it("http://127.0.0.1:9/v1")
    again = from_identity(embedder.identity)
    assert (again is not None) == found
    assert again is None or (again.identity, type(again)) == (embedder.identity, type(embedder))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"dimensions": 0}, "dimensions must be at least 1"),
        ({"requests_per_minute": 0}, "requests_per_minute must be at least 1"),
        ({"base_url": "localhost:8000"}, "base_url: got 'localhost:8000'"),
        ({"retries": -1}, "retries must not be negative"),
        ({"batchsize": 3}, "unknown option 'batchsize'"),
    ],
)
def test_wrong_options_are_told_at_once(server: Server, options: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.InvalidInput, match=message):
        make(server, **options)


def test_a_collection_keeps_what_it_has_when_the_service_fails(server: Server) -> None:
    docs = nf.open().collection("docs", embedder=make(server))
    docs.add(["one", "two"], ids=["1", "2"])
    assert docs.search("one", k=1)[0].id == "1"
    assert docs.embedder_identity == "openai-compatible:test-model"
    server.always = fails(401)
    with pytest.raises(errors.Unauthorized):
        docs.add(["three"])
    assert docs.count() == 2


def test_what_it_costs_is_told(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    embedder = make(server, price=20_000.0, batch_size=2, progress=True)
    server.script.append(fails(500))
    embedder.encode_documents(["a", "b", "c"])
    embedder.encode_documents(["a"])
    assert str(embedder.usage) == "1 from the cache, 2 requests, 3 tokens, $0.0600, 1 retries"
    assert (embedder.usage.texts, embedder.usage.cost) == (4, pytest.approx(0.06))
    out, err = capsys.readouterr()
    assert out == ""
    assert "3/3" in err
    assert "3 tokens" in err


def test_lone_surrogates_do_not_break_the_line(server: Server) -> None:
    make(server).encode_documents(["half \ud83d a character"])


def test_a_missing_extra_is_one_sentence(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(errors.MissingExtra, match=r"pip install 'nearfield\[remote\]'"):
        make(server).encode_documents(["x"])
