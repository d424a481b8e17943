"""The dangers: a stale passage, work done twice, a record of somebody else removed, a hit that points elsewhere."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

import nearfield as nf
from databases import Letters, snapshot
from documents import BROKEN, pdf
from nearfield.errors import InvalidInput, NotFound
from nearfield.load import document


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "notes"
    made.mkdir()
    (made / "a.md").write_text("# Cats\n\n" + "They purr. " * 20 + "\n\n" + "They sleep a lot. " * 20 + "\n")
    (made / "b.txt").write_text("One line.")
    (made / "c.pdf").write_bytes(pdf(["First page here."], ["Second page here."]))
    return made


@pytest.fixture
def embedder() -> Letters:
    return Letters()


@pytest.fixture
def docs(tmp_path: Path, embedder: Letters) -> nf.Collection:
    return nf.open(tmp_path / "x.nf").collection("docs", embedder=embedder)


def texts(collection: nf.Collection) -> list[str]:
    return sorted(record.document or "" for record in collection.get())


def test_a_second_run_does_nothing_at_all(folder: Path, docs: nf.Collection, embedder: Letters) -> None:
    first = nf.index_folder(docs, folder)
    assert (first.files, first.new, first.embedded, first.passages) == (3, 3, 4, 4)
    before, calls = snapshot(docs), len(embedder.calls)
    again = nf.index_folder(docs, folder)
    assert (again.unchanged, again.new, again.changed, again.embedded, again.removed, again.passages) == (
        3,
        0,
        0,
        0,
        0,
        4,
    )
    assert len(embedder.calls) == calls
    assert str(snapshot(docs)) == str(before)


def test_only_new_passages_of_a_changed_file_are_embedded(folder: Path, docs: nf.Collection, embedder: Letters) -> None:
    nf.index_folder(docs, folder)
    embedder.calls.clear()
    file = folder / "a.md"
    file.write_text("# Dogs\n\n" + "They bark. " * 20 + "\n\n" + file.read_text())
    done = nf.index_folder(docs, folder)
    assert (done.changed, done.unchanged, done.embedded, done.removed) == (1, 2, 1, 0)
    assert [text[:6] for call in embedder.calls for text in call] == ["# Dogs"]
    fresh = nf.open().collection("docs", embedder=Letters())
    nf.index_folder(fresh, folder)
    key = lambda record: record.id  # noqa: E731
    include = ["documents", "metadatas", "embeddings"]
    kept, made = sorted(docs.get(include=include), key=key), sorted(fresh.get(include=include), key=key)
    assert [record.to_dict() for record in kept if "a.md" in record.id] == [
        record.to_dict() for record in made if "a.md" in record.id
    ]
    assert len(kept) == len(made)


def test_what_is_gone_goes_and_what_is_not_ours_stays(folder: Path, docs: nf.Collection, tmp_path: Path) -> None:
    (tmp_path / "notes2").mkdir()
    (tmp_path / "notes2" / "d.txt").write_text("Another folder.")
    nf.index_folder(docs, [folder, tmp_path / "notes2"])
    docs.add("Added by hand.", ids="mine")
    (folder / "b.txt").unlink()
    (tmp_path / "notes2" / "d.txt").unlink()
    (folder / "a.md").write_text("Short now.")
    done = nf.index_folder(docs, folder)
    assert (done.gone, done.changed, done.removed) == (1, 1, 2)
    assert texts(docs) == sorted(
        ["Added by hand.", "Another folder.", "First page here.\n\nSecond page here.", "Short now."]
    )
    (folder / ".gitignore").write_text("*.pdf\n")
    assert nf.index_folder(docs, folder, include="*.md").gone == 0  # not asked for is not gone
    assert nf.index_folder(docs, folder).gone == 1
    assert len(texts(docs)) == 3


def test_broken_files_are_told_and_keep_what_was_there(folder: Path, docs: nf.Collection) -> None:
    nf.index_folder(docs, folder)
    before = texts(docs)
    (folder / "c.pdf").write_bytes(BROKEN["locked.pdf"])
    for name, content in BROKEN.items():
        (folder / name).write_bytes(content)
    (folder / "huge.jsonl").write_text(json.dumps({"text": "x", "n": 10**40}))
    done = nf.index_folder(docs, folder)
    assert len(done.problems) == len(BROKEN) + 2
    assert all("\n" not in problem and str(folder) in problem for problem in done.problems)
    assert texts(docs) == before


def test_a_run_that_was_stopped_is_finished_by_the_next(
    tmp_path: Path, docs: nf.Collection, embedder: Letters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nearfield.indexing.BATCH", 4)
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"text": "a" * n}) for n in range(1, 21)))
    encode = embedder.encode_documents

    def stops(texts: list[str]) -> object:
        if len(embedder.calls) == 3:
            raise KeyboardInterrupt
        return encode(texts)

    monkeypatch.setattr(embedder, "encode_documents", stops)
    with pytest.raises(KeyboardInterrupt):
        nf.index_folder(docs, tmp_path / "rows.jsonl")
    assert docs.count() == 12
    monkeypatch.setattr(embedder, "encode_documents", encode)
    done = nf.index_folder(docs, tmp_path / "rows.jsonl")
    assert (done.embedded, docs.count()) == (8, 20)
    assert nf.index_folder(docs, tmp_path / "rows.jsonl").unchanged == 1


def test_another_size_is_another_index(folder: Path, docs: nf.Collection) -> None:
    nf.index_folder(docs, folder)
    done = nf.index_folder(docs, folder, by="tokens", size=60)
    assert done.changed == 3
    assert max(map(len, texts(docs))) <= 60


def test_hits_know_their_place_and_their_neighbours(folder: Path, docs: nf.Collection) -> None:
    nf.index_folder(docs, folder, by="sentences", size=30)
    hit = docs.search("They sleep a lot.", k=1)[0]
    document, start, end = nf.in_source(hit)
    assert document.text[start:end] == hit.document
    records = nf.neighbours(docs, hit, before=2, after=1)
    number = hit.metadata["chunk"]
    assert [record.metadata["chunk"] for record in records] == [
        n for n in range(number - 2, number + 2) if 1 <= n <= hit.metadata["chunks"]
    ]
    docs.delete(records[0].id)
    if records[0].id != hit.id:
        assert nf.neighbours(docs, hit, before=2, after=1) == records[1:]
    (folder / "a.md").write_text("Something else.")
    with pytest.raises(InvalidInput, match="index it again"):
        nf.in_source(hit)
    docs.add("By hand.", ids="mine")
    for function in (nf.in_source, lambda record: nf.neighbours(docs, record)):
        with pytest.raises(InvalidInput, match="index_folder"):
            function(docs.get("mine")[0])


def test_a_passage_knows_its_page_and_its_section(folder: Path, docs: nf.Collection) -> None:
    nf.index_folder(docs, folder, by="sentences", size=20)
    pages = {
        record.document: record.metadata["page"] for record in docs.get() if record.id.startswith(f"{folder}/c.pdf")
    }
    assert pages == {"First page here.": 1, "Second page here.": 2}
    nf.index_folder(docs, folder)
    (both,) = (record.metadata for record in docs.get() if record.id.startswith(f"{folder}/c.pdf"))
    assert (both["page"], both["last_page"]) == (1, 2)
    assert any("c.pdf, pages 1-2, characters" in source.place for source in docs.ask("second page", k=20).sources)
    sections = {record.metadata.get("section") for record in docs.get() if "a.md" in record.id}
    assert sections == {"Cats"}


def test_a_model_without_a_tokenizer_is_never_given_too_much(
    folder: Path, docs: nf.Collection, embedder: Letters
) -> None:
    embedder.max_tokens = 100  # type: ignore[assignment]
    (folder / "b.txt").write_text("日本語の文章です。" * 50)
    nf.index_folder(docs, folder)
    assert max(len(text.encode()) for text in texts(docs)) <= 84
    with pytest.raises(InvalidInput, match="reads only 84"):
        nf.index_folder(docs, folder, size=200)


def test_progress_counts_files_to_the_end(folder: Path, docs: nf.Collection) -> None:
    told: list[tuple[str, int, int]] = []
    nf.index_folder(docs, folder, progress=lambda *facts: told.append(facts))
    assert [done for _, done, _ in told] == [0, 1, 2, 3]
    assert {total for _, _, total in told} == {3}


def test_wrong_arguments_change_nothing(folder: Path, docs: nf.Collection, tmp_path: Path) -> None:
    for options in ({"by": "pages"}, {"size": 0}, {"overlap": 900}):
        with pytest.raises(InvalidInput):
            nf.index_folder(docs, folder, **options)  # type: ignore[arg-type]
    with pytest.raises(NotFound):
        nf.index_folder(docs, tmp_path / "nowhere")
    bare = nf.open().collection("bare", embedder=None)
    with pytest.raises(InvalidInput, match="vectors only"):
        nf.index_folder(bare, folder)
    given = nf.open().collection("given", embedder=Letters())
    given.add(embeddings=[[1.0, 2.0, 3.0, 4.0]])
    with pytest.raises(InvalidInput, match="not made from text"):
        nf.index_folder(given, folder)
    assert (docs.count(), given.count()) == (0, 1)


@pytest.mark.parametrize("length", [20_000, pytest.param(100_000_000, marks=pytest.mark.soak)])
@pytest.mark.parametrize("name", ["data.txt", "data.jsonl", "data.csv"])
def test_one_endless_line_costs_its_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int, name: str
) -> None:
    if length < document.MAX_LINE:
        monkeypatch.setattr(document, "MAX_LINE", length // 10)
    (tmp_path / "a.txt").write_text("A note about herons.")
    (tmp_path / name).write_text('{"text": "first"}\n{"text": "' + "word " * (length // 5) + '"}\n')
    (tmp_path / "z.txt").write_text("A note about owls.")
    with nf.open(tmp_path / "x.nf") as database:
        docs = database.collection("docs", embedder=lambda texts: [[1.0, 0.0]] * len(texts))
        tracemalloc.start()
        done = nf.index_folder(docs, tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert [problem.partition(name)[2][:8] for problem in done.problems] == [": line 2"]
        assert "is data, not text" in done.problems[0]
        assert sorted(record.document or "" for record in docs.get()) == ["A note about herons.", "A note about owls."]
    assert peak < 10 * length + 20_000_000
