"""The dangers: a pair that is missed, a topic that is none, a keyword that says nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nearfield as nf
from nearfield.errors import InvalidInput
from nearfield.topics import duplicates, kmeans, near_pairs, outliers, topics

GROUPS = {
    "cat": ["The cat and the kitten purr.", "A kitten is a young cat.", "The cat, with claws, and a kitten."],
    "rain": ["The rain and the storm come.", "A storm is heavy rain.", "The rain with thunder, and a storm."],
    "bread": ["The bread and the flour rise.", "A flour is for bread.", "The bread with yeast, and a flour."],
}


@pytest.fixture
def docs() -> nf.Collection:
    collection = nf.open().collection("docs", embedder=None)
    for axis, (name, texts) in enumerate(GROUPS.items()):
        for number, text in enumerate(texts):
            vector = np.eye(4)[axis] + [0, 0, 0, 0.1 * number]
            collection.add(text, ids=f"{name}{number}", embeddings=[vector])
    return collection


@given(
    rows=st.integers(0, 60),
    seed=st.integers(0, 10_000),
    threshold=st.sampled_from([0.2, 0.5, 0.9, 0.999]),
    copies=st.integers(1, 12),
)
def test_no_near_pair_is_missed(rows: int, seed: int, threshold: float, copies: int) -> None:
    random = np.random.default_rng(seed)
    vectors = np.repeat(random.standard_normal((rows, 3)), random.integers(1, copies + 1, rows), axis=0).astype("f4")
    vectors += random.standard_normal(vectors.shape).astype("f4") * 1e-3
    one, other, cosines = near_pairs(vectors, threshold)
    unit = vectors.astype("f8") / np.linalg.norm(vectors.astype("f8"), axis=1, keepdims=True)
    oracle = np.triu(unit @ unit.T, 1) if len(unit) else np.zeros((0, 0))
    found = set(zip(one.tolist(), other.tolist(), strict=True))
    assert len(found) == len(one)
    assert found >= set(zip(*(axis.tolist() for axis in np.nonzero(oracle > threshold + 1e-6)), strict=True))
    assert all(oracle[i, j] > threshold - 1e-6 for i, j in found)
    np.testing.assert_allclose(cosines, oracle[one, other], atol=1e-5)


def test_many_copies_of_one_row_are_all_pairs() -> None:
    one, other, _ = near_pairs(np.ones((100, 3), dtype="f4"), 0.9)
    assert len(set(zip(one.tolist(), other.tolist(), strict=True))) == 100 * 99 // 2


def test_groups_are_found_and_named(docs: nf.Collection) -> None:
    found = topics(docs, 3)
    assert sorted(sorted({id[:3] for id in topic.ids})[0] for topic in found) == ["bre", "cat", "rai"]
    for topic in found:
        assert len({id.rstrip("012") for id in topic.ids}) == 1
        name = topic.ids[0].rstrip("012")
        assert name in topic.keywords
        assert not {"the", "and", "with"} & set(topic.keywords)
        assert topic.examples[0] in GROUPS[name]
    assert topics(docs, 3) == found
    assert sum(len(topic.ids) for topic in topics(docs)) == 9
    assert sum(len(topic.ids) for topic in topics(docs, 100)) == 9
    assert topics(nf.open().collection("empty", embedder=None)) == []


def test_keywords_are_no_stop_words_and_no_two_forms_of_a_word() -> None:
    with nf.open() as db:
        docs = db.collection("docs", embedder=None, dimension=2, language="german")
        docs.add(["Die Häuser und die Katze", "Das Haus", "Die Katzen", "Haus"], embeddings=[[1.0, 0.0]] * 4)
        assert docs.language == "german"
        (topic,) = topics(docs, 1)
        assert sorted(topic.keywords) in (["haus", "katze"], ["haus", "katzen"])


def test_duplicates_and_outliers(docs: nf.Collection) -> None:
    docs.add("Alone.", ids="alone", embeddings=[[0.5, -0.5, 0.5, -1.0]])
    assert duplicates(docs, 0.97) == [[f"{name}{number}" for number in range(3)] for name in GROUPS]
    assert duplicates(docs, 0.99999) == []
    assert outliers(docs, 1, neighbours=2)[0].id == "alone"
    assert len(outliers(docs, 50)) == 10
    with pytest.raises(InvalidInput, match="threshold"):
        duplicates(docs, 2.0)


@given(rows=st.integers(1, 50), k=st.integers(1, 8), seed=st.integers(0, 1000))
def test_each_row_is_in_its_nearest_group(rows: int, k: int, seed: int) -> None:
    vectors = np.random.default_rng(seed).standard_normal((rows, 4)).astype("f4")
    assigned, scores = kmeans(vectors, min(k, rows), seed=seed)
    assert assigned.shape == scores.shape == (rows,)
    assert ((assigned >= 0) & (assigned < min(k, rows))).all()
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    groups = np.unique(assigned)
    middles = np.stack([unit[assigned == group].sum(axis=0) for group in groups])
    middles /= np.linalg.norm(middles, axis=1, keepdims=True)
    best = (unit @ middles.T).max(axis=1)
    own = (unit * middles[np.searchsorted(groups, assigned)]).sum(axis=1)
    np.testing.assert_allclose(own, best, atol=1e-5)
