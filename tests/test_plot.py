"""The dangers: a picture that shows something else, a page that runs what a document says, half a file."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import nearfield as nf
from nearfield.embed import FunctionEmbedder
from nearfield.errors import InvalidInput, MissingExtra, StorageError
from nearfield.plot import pca, plot_map, plot_recall, plot_scores, points, suggested_threshold

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def docs() -> nf.Collection:
    collection = nf.open().collection("docs", embedder=None)
    vectors = np.random.default_rng(0).standard_normal((40, 6)).astype("f4")
    vectors[:20, 0] += 10
    texts = [f"Text {n} </script><script>alert(1)</script> $x^2$" for n in range(40)]
    metadatas = [{"side": "left" if n < 20 else "right", "year": 1980 + n} for n in range(40)]
    collection.add(texts, ids=[f"id{n}" for n in range(40)], embeddings=vectors, metadatas=metadatas)
    return collection


def inside(page: Path) -> dict[str, list[object]]:
    found = re.search(r'<script id="data"[^>]*>(.*?)</script>', page.read_text(), re.S)
    assert found
    loaded: dict[str, list[object]] = json.loads(found[1])
    return loaded


def test_pca_is_that_of_the_textbook() -> None:
    matrix = np.random.default_rng(1).standard_normal((50, 7)).astype("f4")
    centred = matrix - matrix.mean(axis=0)
    left, values, _ = np.linalg.svd(centred.astype("f8"), full_matrices=False)
    np.testing.assert_allclose(np.abs(pca(matrix)), np.abs(left[:, :2] * values[:2]), atol=1e-4)
    assert pca(np.ones((3, 1), dtype="f4")).tolist() == [[0, 0]] * 3
    assert points(np.empty((0, 4))).shape == (0, 2)


def test_tsne_keeps_neighbours() -> None:
    matrix = np.random.default_rng(2).standard_normal((40, 5)) * 0.01
    matrix[:20, 0] += 5
    made = points(matrix, "tsne")
    assert made.shape == (40, 2)
    one, other = made[:20].mean(axis=0), made[20:].mean(axis=0)
    spread = max(made[:20].std(), made[20:].std())
    assert np.linalg.norm(one - other) > spread


def test_umap_keeps_neighbours() -> None:
    pytest.importorskip("umap")
    assert points(np.random.default_rng(2).standard_normal((40, 5)), "umap").shape == (40, 2)


def test_a_page_holds_every_record_and_runs_none_of_it(docs: nf.Collection, tmp_path: Path) -> None:
    assert plot_map(docs, tmp_path / "map.html", color="side", title="my <docs>") == 40
    page = (tmp_path / "map.html").read_text()
    assert page.count("<script") == 2
    assert page.count("</script>") == 2
    assert "<title>my &lt;docs&gt;</title>" in page
    assert not re.search(r"https?://|src=", page), "it needs nothing from elsewhere"
    data = inside(tmp_path / "map.html")
    assert data["id"] == [f"id{n}" for n in range(40)]
    assert str(data["text"][3]).startswith("Text 3 </script>")
    assert [name for name, _ in data["legend"]] == ["left", "right"]  # type: ignore[misc]
    assert len(set(data["colour"][:20])) == len(set(data["colour"][20:])) == 1
    assert data["colour"][0] != data["colour"][20]
    xs = np.array(data["x"], dtype="f4")
    assert (xs[:20] > 0).all() != (xs[20:] > 0).all()


def test_numbers_become_a_scale_and_a_mapping_gives_colours(docs: nf.Collection, tmp_path: Path) -> None:
    plot_map(docs, tmp_path / "a.html", color="year", where={"side": "left"})
    data = inside(tmp_path / "a.html")
    assert data["ramp"][:2] == ["1980", "1999"]
    assert (data["colour"][0], data["colour"][-1]) == ("#440154", "#FDE725")
    plot_map(docs, tmp_path / "b.html", color={"id3": "chosen"})
    assert [n for n, label in enumerate(inside(tmp_path / "b.html")["label"]) if label == "chosen"] == [3]
    assert plot_map(docs, tmp_path / "c.html", limit=10) == 10
    assert inside(tmp_path / "c.html")["id"] == [f"id{n}" for n in range(0, 40, 4)]


def test_pictures_are_pictures(docs: nf.Collection, tmp_path: Path) -> None:
    for color in (None, "side", "year"):
        plot_map(docs, tmp_path / f"{color}.png", color=color)
        assert (tmp_path / f"{color}.png").read_bytes().startswith(PNG)
    assert (tmp_path / "None.png").read_bytes() != (tmp_path / "side.png").read_bytes()
    plot_recall({"a": [(0.9, 100.0), (0.99, 10.0)], "b": []}, tmp_path / "r.svg", title="$a_b$ & c")
    assert "<svg" in (tmp_path / "r.svg").read_text()
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".png", ".png", ".png", ".svg"]


def test_the_threshold_lies_between_answers_and_chance(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    centres = np.eye(16, dtype="f4")[:8]

    def embed(texts: list[str]) -> object:
        return [centres[int(text.split()[0])] + 0.05 * random.standard_normal(16) for text in texts]

    collection = nf.open().collection("docs", embedder=FunctionEmbedder(embed))
    collection.add([f"{n % 8} text" for n in range(400)])
    threshold = plot_scores(collection, [f"{n} query" for n in range(8)], tmp_path / "s.png", k=50)
    assert 0.05 < threshold < 0.9
    assert (tmp_path / "s.png").read_bytes().startswith(PNG)
    assert suggested_threshold(np.arange(1001) / 1000) == pytest.approx(0.995)


def test_what_cannot_be_drawn_is_told_and_leaves_no_file(
    docs: nf.Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidInput, match=r"must end in \.html, \.png"):
        plot_map(docs, tmp_path / "map.gif")
    with pytest.raises(InvalidInput, match="unknown method 'mds'"):
        plot_map(docs, tmp_path / "map.html", method="mds")
    with pytest.raises(InvalidInput, match="no record to draw that matches"):
        plot_map(docs, tmp_path / "map.html", where={"side": "top"})
    with pytest.raises(InvalidInput, match=r"color: no record has the field 'sides'; there is .*side"):
        plot_map(docs, tmp_path / "map.html", color="sides")
    with pytest.raises(StorageError, match="cannot be written"):
        plot_map(docs, tmp_path / "nowhere" / "map.html")
    with pytest.raises(InvalidInput, match="queries"):
        plot_scores(docs, [], tmp_path / "s.png")
    with pytest.raises(InvalidInput, match="a point must be"):
        plot_recall({"a": [(2.0, 1.0)]}, tmp_path / "r.png")
    with pytest.raises(InvalidInput, match="no points"):
        plot_recall({}, tmp_path / "r.png")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=r"nearfield\[plot\]"):
        plot_map(docs, tmp_path / "map.png")
    assert not list(tmp_path.iterdir())
