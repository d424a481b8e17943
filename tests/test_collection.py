"""The dangers of a collection: lost or mixed-up records, wrong order, vectors of two models, half-done changes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import nearfield as nf
from databases import Letters, snapshot
from nearfield import transaction
from nearfield.errors import AlreadyExists, EmbedderMismatch, InvalidInput, NotFound

# -- what a newcomer does --------------------------------------------------------------------------------------------


def test_search_by_text_finds_records_with_their_own_document_and_metadata(letters: nf.Collection) -> None:
    hits = letters.search("aa", k=3)
    assert hits.ids == ["a", "ab", "b"]
    assert [hit.document for hit in hits] == ["aaa", "aab", "bbb"]
    assert [hit.metadata for hit in hits] == [{"n": 0}, {"n": 3}, {"n": 1}]
    assert hits.query == "aa"
    assert hits.report is None
    assert hits.scores == sorted(hits.scores, reverse=True)
    cosine = 7 / (math.sqrt(5) * math.sqrt(10))
    assert hits[0].score == pytest.approx(cosine)
    assert hits[0].distance == pytest.approx(1 - cosine, abs=1e-6)


def test_a_batch_gives_each_query_its_own_answers(letters: nf.Collection) -> None:
    batch = letters.search(["bb", "cc", "aa"], k=2)
    assert [hits.query for hits in batch] == ["bb", "cc", "aa"]
    assert [hits.ids for hits in batch] == [letters.search(text, k=2).ids for text in ("bb", "cc", "aa")]
    array = letters.search(np.eye(4)[:2], k=1)
    assert [hits.ids for hits in array] == [["a"], ["b"]]
    assert letters.search([1, 0, 0, 0], k=1).ids == ["a"]
    assert letters.search(np.array(["bb", "cc"]), k=1)[1].ids == ["c"]
    assert letters.search([]) == []
    assert letters.search(np.empty((0, 4))) == []


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_scores_and_distances_of_each_metric(db: nf.Database, metric: Any) -> None:
    collection = db.collection("c", embedder=None, metric=metric)
    made = np.random.default_rng(1).standard_normal((20, 5))
    collection.add(embeddings=made, ids=[str(i) for i in range(20)])
    query = np.random.default_rng(2).standard_normal(5)
    scores = {
        "cosine": made @ query / np.linalg.norm(made, axis=1) / np.linalg.norm(query),
        "dot": made @ query,
        "l2": -np.linalg.norm(made - query, axis=1),
    }[metric]
    hits = collection.search(query, k=20)
    assert hits.ids == [str(i) for i in np.argsort(-scores)]
    assert hits.scores == pytest.approx(sorted(scores, reverse=True), abs=1e-5)
    for hit in hits:
        assert hit.distance == pytest.approx(1 - hit.score if metric == "cosine" else -hit.score)
    assert db.collection("c").metric == metric


def test_a_filter_never_costs_answers(db: nf.Database) -> None:
    """If k records match, k come back, and they are the nearest of those that match."""
    collection = db.collection("c", embedder=None)
    made = np.random.default_rng(3).standard_normal((300, 6)).astype("f4")
    texts = [f"text {i % 9}" for i in range(300)]
    collection.add(
        texts, embeddings=made, ids=[str(i) for i in range(300)], metadatas=[{"n": i % 50} for i in range(300)]
    )
    query = made[0]
    order = np.argsort(-(made @ query) / np.linalg.norm(made, axis=1), kind="stable")
    for where, where_document, keep in (
        ({"n": 7}, None, lambda i: i % 50 == 7),
        ({"n": {"$gte": 25}}, {"$contains": "4"}, lambda i: i % 50 >= 25 and i % 9 == 4),
        (None, {"$not_contains": "text"}, lambda i: False),
        ({}, {}, lambda i: True),
    ):
        wanted = [str(i) for i in order if keep(int(i))]
        for k in (1, 5, 300):
            assert collection.search(query, k, where=where, where_document=where_document).ids == wanted[:k]
        assert {record.id for record in collection.get(where=where, where_document=where_document)} == set(wanted)


def test_min_score_and_explain(letters: nf.Collection) -> None:
    hits = letters.search("aa", k=4)
    assert letters.search("aa", k=4, min_score=hits[1].score).ids == hits.ids[:2]
    assert letters.search("aa", k=4, min_score=2).ids == []
    report = letters.search("aa", k=4, explain=True).report
    assert report is not None
    assert (report.queries, report.exact) == (1, True)
    assert report.rows_scanned == 4
    assert letters.search("aa", exact=True, recall=0.9).ids == letters.search("aa").ids


def test_an_empty_collection_answers_with_nothing(db: nf.Database) -> None:
    embedder = Letters()
    collection = db.collection("c", embedder=embedder)
    assert len(collection.search("a", explain=True)) == 0
    assert [len(hits) for hits in collection.search(["a", "b"])] == [0, 0]
    assert collection.search([1.0, 2.0]).ids == []
    assert (collection.get(), collection.peek(), collection.count(), collection.delete("x")) == ([], [], 0, 0)
    assert collection.dimension is None
    assert embedder.calls == []  # nothing to find, nothing to embed
    collection.add("abc", ids="x")
    collection.delete("x")
    assert collection.search("a").ids == []


def test_get_keeps_the_order_asked(letters: nf.Collection) -> None:
    assert [record.id for record in letters.get(["c", "a", "b", "c"])] == ["c", "a", "b", "c"]
    assert letters.get("b")[0].document == "bbb"
    assert [record.id for record in letters.get()] == ["a", "b", "c", "ab"]
    assert [record.id for record in letters.get(where={"n": {"$gt": 0}}, offset=1, limit=1)] == ["c"]
    assert [record.id for record in letters.get(["ab", "a", "c"], where={"n": {"$gt": 0}})] == ["ab", "c"]
    assert letters.get(limit=0) == []
    assert [record.id for record in letters.peek(2)] == ["a", "b"]
    bare = letters.get("a", include=[])[0]
    assert (bare.document, bare.metadata, bare.embedding) == (None, {}, None)
    embedding = letters.get("ab", include="embeddings")[0].embedding
    assert embedding is not None
    assert embedding.tolist() == [2, 1, 0, 1]
    assert letters.count({"n": {"$lt": 2}}) == 2


def test_made_ids_are_unique_and_in_order(db: nf.Database) -> None:
    collection = db.collection("c", embedder=None)
    ids = [id for _ in range(30) for id in collection.add(embeddings=np.ones((10, 2)))]
    assert len(set(ids)) == 300
    assert [record.id for record in collection.get()] == ids
    batch = collection.add(embeddings=np.ones((1000, 2)))
    assert batch == sorted(batch)


def test_values_come_back_as_they_went_in(db: nf.Database) -> None:
    metadata = {
        "text": "é \" \\ ' \n \u2028 😀",
        "int": -(2**63),
        "float": 0.1 + 0.2,
        "whole": 1.0,
        "yes": True,
        "none": None,
        "list": [1, "a", None, False, 2.5],
        "empty": [],
        "ключ": np.int64(5),
        "f32": np.float32(0.5),
    }
    collection = db.collection("c", embedder=None)
    document = "null \0 inside, 😀, " + "long " * 5000
    made = np.array([[1e-45, -3.4e38, 0.0, 1 / 3]], dtype="f4")
    collection.add([document], ids=["ид 😀 '\""], embeddings=made, metadatas=metadata)
    (record,) = collection.get(["ид 😀 '\""], include=["documents", "metadatas", "embeddings"])
    assert record.document == document
    assert record.metadata == metadata
    kinds = {key: type(value) for key, value in record.metadata.items()}
    assert kinds["whole"] is float
    assert kinds["yes"] is bool
    assert record.embedding is not None
    assert record.embedding.tobytes() == made.tobytes()
    assert collection.search(made[0]).ids == [record.id]


# -- changing --------------------------------------------------------------------------------------------------------


def test_add_refuses_ids_that_exist_and_names_them(letters: nf.Collection) -> None:
    before = snapshot(letters)
    letters.embedder.calls.clear()  # type: ignore[union-attr]
    with pytest.raises(AlreadyExists, match=r"'letters'.*'a', 'b', 'c' and 1 more.*upsert"):
        letters.add(["x"] * 5, ids=["new", "a", "b", "c", "ab"])
    with pytest.raises(AlreadyExists, match="'b'"):
        letters.add(ids=["new", "b"], embeddings=np.ones((2, 4)))
    with pytest.raises(AlreadyExists, match="'b'"):
        letters.add(ids=["b", *map(str, range(20))], embeddings=np.ones((21, 4)))
    assert snapshot(letters) == before
    assert letters.embedder.calls == []  # type: ignore[union-attr]  # refused before the embedding was paid for


def test_upsert_replaces_records_as_a_whole(letters: nf.Collection) -> None:
    letters.upsert(["ccc b", "new"], ids=["a", "d"], metadatas=[None, {"m": 1}])
    assert letters.count() == 5
    record = letters.get("a")[0]
    assert (record.document, record.metadata) == ("ccc b", {})
    assert letters.search("ccc", k=5).ids[:2] == ["c", "a"]
    assert letters.search("aaa", k=1).ids == ["ab"]
    assert sorted(letters.search("aaa", k=99).ids) == ["a", "ab", "b", "c", "d"]


def test_update_changes_what_is_given_and_nothing_else(letters: nf.Collection) -> None:
    letters.update(["a", "b"], metadatas=[{"m": 1}, None])
    assert [record.metadata for record in letters.get(["a", "b"])] == [{"m": 1}, {"n": 1}]
    assert [record.id for record in letters.get()] == ["a", "b", "c", "ab"]
    letters.update(["b", "c"], documents=["aaaa", None])  # embedded anew
    assert letters.search("aaaa", k=1).ids == ["b"]
    assert letters.get("c")[0].document == "ccc"
    assert letters.get("b")[0].metadata == {"n": 1}
    letters.update("c", embeddings=[0, 9, 0, 0], metadatas={"z": 1}, documents="still c")
    assert letters.search([0, 1, 0, 0], k=1).ids == ["c"]
    assert letters.get("c")[0].to_dict() == {"id": "c", "document": "still c", "metadata": {"z": 1}}
    assert letters.count() == len(letters.get()) == 4


def test_documents_beside_given_vectors_change_in_place(db: nf.Database) -> None:
    collection = db.collection("c")
    collection.add(["one", "two"], ids=["1", "2"], embeddings=np.eye(2))
    collection.update("1", documents="eins")
    assert [record.document for record in collection.get()] == ["eins", "two"]
    assert collection.search([1.0, 0.0], k=1)[0].document == "eins"


def test_delete_by_ids_by_where_and_by_both(letters: nf.Collection) -> None:
    assert letters.delete(["a", "unknown", "a"]) == 1
    assert letters.delete(["b", "c"], where={"n": 2}) == 1
    assert [record.id for record in letters.get()] == ["b", "ab"]
    assert letters.search("aaa", k=9).ids == ["ab", "b"]
    assert letters.delete(where={"n": {"$gte": 0}}) == 2
    assert letters.count() == 0
    letters.add("aaa", ids="a")  # the id is free again
    assert letters.search("a").ids == ["a"]


def test_a_mistaken_delete_does_not_empty_the_collection(letters: nf.Collection) -> None:
    for call in (letters.delete, lambda: letters.delete(where={}), lambda: letters.delete(where={"$and": [{}]})):
        with pytest.raises(InvalidInput, match=r"Database\.drop"):
            call()
    assert letters.delete([]) == 0
    assert letters.count() == 4


class Model(RuleBasedStateMachine):
    """Random changes, against a dictionary and a brute-force search."""

    def __init__(self) -> None:
        super().__init__()
        self.db: nf.Database | None = None

    @initialize(folder=st.booleans())
    def start(self, folder: bool) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory() if folder else None
        self.model: dict[str, tuple[str | None, dict[str, Any], list[float]]] = {}
        self.reopen()

    @precondition(lambda self: self.db is None or self.folder)
    @rule()
    def reopen(self) -> None:
        if self.db is not None:
            self.db.close()
        self.db = nf.open(self.folder.name if self.folder else None)
        self.collection = self.db.collection("c", embedder=None, metric="l2")

    IDS = st.lists(st.sampled_from("abcdefghijklmnop"), unique=True, max_size=12)
    NUMBER = st.integers(-5, 5)

    @rule(ids=IDS, data=st.data(), replace=st.booleans())
    def put(self, ids: list[str], data: st.DataObject, replace: bool) -> None:
        made = [[float(data.draw(self.NUMBER)) for _ in range(3)] for _ in ids]
        fields = [{"n": data.draw(self.NUMBER)} for _ in ids]
        texts = [f"{id} {field}" for id, field in zip(ids, fields, strict=True)]
        arguments: dict[str, Any] = {
            "ids": ids,
            "embeddings": np.reshape(made, (-1, 3)),
            "metadatas": fields,
            "documents": texts,
        }
        if replace:
            self.collection.upsert(**arguments)
        elif set(ids) & set(self.model):
            with pytest.raises(AlreadyExists):
                self.collection.add(**arguments)
            return
        else:
            self.collection.add(**arguments)
        for id in ids:
            self.model.pop(id, None)
        self.model |= {id: entry for id, *entry in zip(ids, texts, fields, made, strict=True)}  # type: ignore[misc]

    @rule(ids=IDS, n=NUMBER, move=st.booleans())
    def update(self, ids: list[str], n: int, move: bool) -> None:
        vectors = np.full((len(ids), 3), float(n)) if move else None
        if set(ids) - set(self.model):
            with pytest.raises(NotFound):
                self.collection.update(ids, metadatas=[{"n": n}] * len(ids), embeddings=vectors)
            return
        self.collection.update(ids, metadatas=[{"n": n}] * len(ids), embeddings=vectors)
        for id in ids:
            text, _, vector = self.model[id]
            if move:
                del self.model[id]
            self.model[id] = (text, {"n": n}, [float(n)] * 3 if move else vector)

    @rule(ids=IDS)
    def delete(self, ids: list[str]) -> None:
        assert self.collection.delete(ids) == len(set(ids) & set(self.model))
        self.model = {id: entry for id, entry in self.model.items() if id not in ids}

    @rule(n=NUMBER)
    def delete_where(self, n: int) -> None:
        gone = {id for id, entry in self.model.items() if entry[1]["n"] < n}
        assert self.collection.delete(where={"n": {"$lt": n}}) == len(gone)
        self.model = {id: entry for id, entry in self.model.items() if id not in gone}

    @invariant()
    def same(self) -> None:
        if self.db is None:
            return
        records = self.collection.get(include=["documents", "metadatas", "embeddings"])
        found = [(r.id, r.document, r.metadata, r.embedding.tolist()) for r in records if r.embedding is not None]
        assert found == [(id, *entry) for id, entry in self.model.items()]
        assert self.collection.count() == len(self.model)
        query = np.array([0.5, -1.0, 2.0])
        for n in (None, 0):
            rows = [(id, e[2]) for id, e in self.model.items() if n is None or e[1]["n"] >= n]
            wanted = sorted(rows, key=lambda row: float(np.linalg.norm(np.array(row[1]) - query)))
            hits = self.collection.search(query, k=8, where=None if n is None else {"n": {"$gte": n}})
            assert hits.ids == [id for id, _ in wanted[:8]]

    def teardown(self) -> None:
        if self.db is not None:
            self.db.close()
            if self.folder:
                self.folder.cleanup()


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction, "SEAL_ROWS", 8)


@pytest.mark.usefixtures("_small")
def test_any_sequence_of_changes_agrees_with_a_dictionary() -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(Model, settings=settings(max_examples=60, stateful_step_count=20))


# -- embedders -------------------------------------------------------------------------------------------------------


def test_another_embedder_is_refused_with_a_way_out(db: nf.Database, letters: nf.Collection) -> None:
    before = snapshot(letters)
    with pytest.raises(EmbedderMismatch, match=r"'letters:1', not by 'letters:2'.*embedder=None"):
        db.collection("letters", embedder=Letters("letters:2"))
    reader = db.collection("letters", embedder=None)
    assert reader.search([1, 0, 0, 0], k=1).ids == ["a"]
    for call in (lambda: reader.search("aa"), lambda: reader.add("aa"), lambda: reader.update("a", documents="b")):
        with pytest.raises(InvalidInput, match="opened with embedder=None"):
            call()
    assert snapshot(letters) == before


def test_two_embedders_that_start_on_an_empty_collection_cannot_both_fill_it(db: nf.Database) -> None:
    first, second = db.collection("c", embedder=Letters("one")), db.collection("c", embedder=Letters("two"))
    first.add("a")
    for call in (lambda: second.add("b"), lambda: second.search("b"), lambda: second.upsert("b")):
        with pytest.raises(EmbedderMismatch, match="'one', not by 'two'"):
            call()
    assert first.count() == 1


def test_another_embedder_that_comes_while_texts_are_being_embedded_is_not_mixed_in(db: nf.Database) -> None:
    class Slow(Letters):
        def encode_documents(self, texts: Sequence[str]) -> np.ndarray[Any, Any]:
            if not self.calls:
                db.collection("c", embedder=Letters("quick")).add("aaa", ids="a")
            return super().encode_documents(texts)

    slow = db.collection("c", embedder=Slow("slow"))
    with pytest.raises(EmbedderMismatch, match="'quick', not by 'slow'"):
        slow.add("bbb")
    assert [record.id for record in slow.get()] == ["a"]


def test_vectors_only_collections_open_with_the_default_and_refuse_texts(
    db: nf.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nearfield.embed

    def loaded(*_: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(nearfield.embed, "resolve", loaded)
    db.collection("c", embedder=None, dimension=3).add(["a text beside it"], embeddings=[[1, 2, 3]])
    collection = db.collection("c")
    collection.add(embeddings=[[3, 2, 1]])
    assert len(collection.search([1, 2, 3])) == 2
    for call in (lambda: collection.search("text"), lambda: collection.add("text"), lambda: collection.upsert("text")):
        with pytest.raises(InvalidInput, match="were given, not made from text"):
            call()


def test_an_embedder_given_by_name_to_given_vectors_is_trusted_and_then_kept(db: nf.Database) -> None:
    db.collection("c").add(["aaa", "bbb"], ids=["a", "b"], embeddings=Letters().encode_documents(["aaa", "bbb"]))
    collection = db.collection("c", embedder=Letters())
    assert collection.search("aa", k=1).ids == ["a"]
    collection.add("ccc", ids="c")
    with pytest.raises(EmbedderMismatch):
        db.collection("c", embedder=Letters("other"))


def test_the_default_embedder_is_not_loaded_before_the_first_text(
    db: nf.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nearfield.embed

    asked: list[Any] = []
    monkeypatch.setattr(nearfield.embed, "resolve", lambda spec: asked.append(spec) or Letters())  # type: ignore[func-returns-value]
    collection = db.collection("c")
    assert asked == []
    collection.add("aaa")
    collection.search("a")
    assert asked == ["default"]


def test_a_function_is_an_embedder(db: nf.Database) -> None:
    collection = db.collection("c", embedder=lambda texts: [[len(text), 1.0] for text in texts])
    collection.add(["a", "aaaaaaa"], ids=["short", "long"])
    assert collection.search("b", k=1).ids == ["short"]


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (np.full((2, 4), np.nan, dtype="f4"), "NaN"),
        (np.ones((1, 4), dtype="f4"), "1 vectors for 2 texts"),
        (np.ones((2, 7), dtype="f4"), "7 dimensions, the collection has 4"),
    ],
)
def test_what_an_embedder_returns_is_checked(letters: nf.Collection, made: Any, says: str) -> None:
    before = snapshot(letters)
    letters.embedder.encode_documents = lambda _: made  # type: ignore[union-attr, method-assign, assignment]
    with pytest.raises(InvalidInput, match=says):
        letters.add(["x", "y"])
    assert snapshot(letters) == before


# Going through all records


def test_a_walk_through_the_records_forbids_writing(letters: nf.Collection) -> None:
    seen = []
    for records in letters.scan(batch=3, include=["documents"]):
        letters.update([record.id for record in records], documents=["bbb"] * len(records))
        assert letters.search("bbb", k=4)
        seen += [(record.id, record.document, record.metadata) for record in records]
    assert seen == [("a", "aaa", {}), ("b", "bbb", {}), ("c", "ccc", {}), ("ab", "aab", {})]
    assert {record.document for record in letters.get()} == {"bbb"}
    assert [record.id for records in letters.scan(where={"n": {"$gt": 1}}) for record in records] == ["c", "ab"]
    with pytest.raises(InvalidInput, match="batch must be"):
        letters.scan(batch=0)


def test_vectors_are_adopted_that_another_model_made(db: nf.Database) -> None:
    collection = db.collection("c", embedder=Letters())
    collection.adopt("letters:1")
    collection.add(embeddings=[[3, 0, 0, 1]], ids=["a"])
    assert collection.search("aaa", k=1).ids == ["a"]
    collection.adopt("letters:1")
    with pytest.raises(EmbedderMismatch):
        collection.adopt("letters:2")
    given = db.collection("given", embedder=None)
    given.add(embeddings=[[1.0]])
    with pytest.raises(InvalidInput, match="nobody knows"):
        given.adopt("letters:1")


def test_unknown_ids_are_known(letters: nf.Collection) -> None:
    assert letters.known(["a", "x", "ab"]) == {"a", "ab"}
    assert letters.known("x") == set()
