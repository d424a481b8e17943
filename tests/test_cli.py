"""The dangers: a traceback for a user, a lie to a script, a look that makes a database, a demonstration that cheats."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import nearfield as nf
from nearfield.chunk import passages
from nearfield.cli.demo import QUESTIONS
from nearfield.load import find_files, read_file
from terminal import Run

CORPUS = Path(__file__).resolve().parents[1] / "examples" / "corpus"
COMMAND = [sys.executable, "-c", "from nearfield.cli import main; main()"]


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "pets.md").write_text(
        "---\nyear: 1999\n---\n"
        "The cat sat on the mat and purred, while the old dog slept in front of the stove and dreamt of hares.\n\n"
        "Goldfish live longer in a pond than in a bowl, for a bowl holds too little air and far too little room.\n"
    )
    (folder / "money.txt").write_text("Shares fell sharply on the exchange today.")
    return folder


def contents(db: Path, name: str = "docs") -> dict[str, str]:
    with nf.open(db) as database:
        return {record.id: record.document or "" for record in database.collection(name).get()}


# Index


def test_indexing_and_searching(run: Run, notes: Path) -> None:
    ended = run("index", "notes")
    assert ended.code == 0
    assert "2 files (2 new), 3 passages, 3 embedded" in ended.out
    assert ended.err == ""
    ended = run("search", "a feline on a rug", "-k", "1")
    assert ended.code == 0
    assert re.search(r"1\s+0\.\d{3}\s+The cat sat", ended.out)
    assert "notes/pets.md" in ended.out
    assert "exchange" not in ended.out


def test_a_second_run_embeds_nothing(run: Run, notes: Path) -> None:
    run("index", "notes")
    before = contents(Path("library.nf"))
    assert "2 files (2 unchanged), 3 passages, 0 embedded" in run("index", "notes").out
    assert "1 file (1 unchanged), 2 passages, 0 embedded" in run("index", notes / "pets.md").out
    assert contents(Path("library.nf")) == before


def test_a_changed_file_leaves_no_stale_passage(run: Run, notes: Path) -> None:
    run("index", "notes")
    (notes / "pets.md").write_text("Only parrots now.")
    ended = run("index", notes / "pets.md")
    assert "1 embedded, 1 removed" in ended.out
    assert sorted(contents(Path("library.nf")).values()) == [
        "Only parrots now.",
        "Shares fell sharply on the exchange today.",
    ]
    (notes / "pets.md").write_text("")
    ended = run("index", "notes")
    assert "1 file had no text" in ended.err
    assert list(contents(Path("library.nf")).values()) == ["Shares fell sharply on the exchange today."]


def test_changed_metadata_alone_is_noticed(run: Run, notes: Path) -> None:
    run("index", "notes")
    (notes / "pets.md").write_text((notes / "pets.md").read_text().replace("1999", "2010"))
    assert "2 files (1 changed, 1 unchanged), 3 passages, 0 embedded" in run("index", "notes").out
    assert len(json.loads(run("search", "cat", "--where", '{"year": 2010}', "--json").out)["hits"]) == 2


def test_a_deleted_file_goes_with_its_folder_only(run: Run, notes: Path, tmp_path: Path) -> None:
    (tmp_path / "notes2").mkdir()
    (tmp_path / "notes2" / "other.txt").write_text("Another folder whose name begins alike.")
    run("index", "notes", "notes2")
    with nf.open("library.nf") as database:
        database.collection("docs").add(ids="mine", documents="Added by hand.")
    (notes / "pets.md").unlink()
    (tmp_path / "notes2" / "other.txt").unlink()
    assert "2 removed" in run("index", "notes").out
    assert sorted(Path(id).name for id in contents(Path("library.nf"))) == ["mine", "money.txt#1", "other.txt#1"]


def test_a_broken_file_is_told_and_keeps_what_was_there(run: Run, notes: Path) -> None:
    run("index", "notes")
    before = contents(Path("library.nf"))
    (notes / "pets.md").write_bytes(b"caf\xe9")
    (notes / "rows.jsonl").write_text('{"text": "fine"}\n{broken')
    (notes / "photo.png").write_bytes(b"")
    ended = run("index", "notes")
    assert ended.code == 1
    assert re.search(r"problem: .*pets\.md: not UTF-8", ended.err)
    assert re.search(r"problem: .*rows\.jsonl: line 2 is not valid JSON", ended.err)
    assert "2 files could not be read" in ended.err
    assert ".png (1)" in ended.err
    assert contents(Path("library.nf")) == before
    ended = run("index", "notes", "--json")
    assert ended.code == 1
    assert len(json.loads(ended.out)["problems"]) == 2


def test_passages_do_not_enter_a_collection_of_bare_vectors(run: Run, notes: Path) -> None:
    with nf.open("library.nf") as database:
        database.collection("docs", embedder=None).add(embeddings=[[1.0] * 384])
    ended = run("index", "notes")
    assert ended.code == 1
    assert "not made from text" in ended.err
    assert len(contents(Path("library.nf"))) == 1


def test_no_end_of_a_passage_is_cut_off_by_the_model(run: Run, tmp_path: Path) -> None:
    """Dense text has a token for each character; measured in characters, passages would be too long."""
    (tmp_path / "dense.txt").write_text("\n\n".join("¤§¶" * 260 + f" {n}." for n in range(5)))
    assert run("index", "dense.txt").err == ""
    assert "".join("".join(contents(Path("library.nf")).values()).split()).count("¤") == 5 * 260


def test_index_options_reach_the_indexer(run: Run, notes: Path) -> None:
    (notes / "latin.txt").write_bytes("café".encode("latin-1"))
    ended = run("index", "notes", "--include", "*.txt", "--exclude", "money*", "--encoding", "latin-1", "--json")
    assert json.loads(ended.out)["files"] == 1
    assert list(contents(Path("library.nf")).values()) == ["café"]
    assert run("index", "notes", "--by", "pages").code == 1
    run("index", notes / "pets.md", "--size", "20", "--overlap", "5", "--by", "sentences")
    assert len(contents(Path("library.nf"))) > 3


# Scripts


def test_json_is_the_whole_of_stdout(run: Run, notes: Path) -> None:
    assert json.loads(run("index", "notes", "--json").out)["embedded"] == 3
    ended = run("search", "feline", "--json", "-k", "1")
    answer = json.loads(ended.out)
    (hit,) = answer["hits"]
    assert (answer["query"], hit["rank"], hit["metadata"]["year"], ended.err) == ("feline", 1, 1999, "")
    assert set(hit) == {"rank", "id", "score", "distance", "document", "metadata", "scores", "highlights"}
    info = json.loads(run("info", "--json").out)
    assert info["build"]["profile"] == "release"
    (described,) = info["collections"]
    assert (described["name"], described["count"], described["dimension"], described["metric"]) == (
        "docs",
        3,
        384,
        "cosine",
    )
    assert "MiniLM" in described["embedder"]
    assert info["database"]["bytes"] > 3 * 384 * 4


def test_no_match_is_said_and_no_failure(run: Run, notes: Path) -> None:
    run("index", "notes")
    ended = run("search", "cat", "--min-score", "0.999")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("No matches in collection 'docs' of library.nf within")
    assert json.loads(run("search", "cat", "--where", '{"year": 1}', "--json").out)["hits"] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["search", "x", "--db", "nowhere.nf"], "there is no database nowhere.nf: make one with"),
        (["info", "--db", "nowhere.nf"], "there is no database nowhere.nf"),
        (["search", "x", "--collection", "other"], "has no collection 'other'; it has: 'docs'"),
        (["search", " "], "empty"),
        (["search", "x", "--where", '{"a": {"$what": 1}}'], "$what"),
        (["search", "x", "--db", "notes"], "notes"),
        (["index", "nowhere"], "nowhere: no such file or folder"),
        (["demo", "nowhere"], "nowhere: no such file or folder"),
    ],
)
def test_an_error_is_one_sentence(run: Run, notes: Path, words: list[str], said: str) -> None:
    run("index", notes / "money.txt")
    ended = run(*words)
    assert ended.code == 1
    assert ended.out == ""
    assert ended.err.startswith("error: ")
    assert said in ended.err
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["dance"],
        ["search"],
        ["search", "x", "-k", "0"],
        ["search", "x", "--where", "{"],
        ["search", "x", "--where", "[1]"],
        ["index"],
        ["info", "--nonsense"],
    ],
)
def test_wrong_usage_is_told_apart(run: Run, words: list[str]) -> None:
    ended = run(*words)
    assert (ended.code, ended.out) == (2, "")
    assert "Error" in ended.err
    assert "--where" not in words or '{"year": 2005}' in ended.err


def test_the_help_begins_with_what_one_begins_with(run: Run) -> None:
    shown = re.findall(r"^│ (\w+) ", run("--help").out, re.M)
    assert shown[:5] == ["index", "search", "ask", "info", "demo"]


@pytest.mark.parametrize(
    "words", [["search", "x"], ["search", "x", "--db", "sub/new.nf"], ["info"], ["info", "--db", "new.nf"]]
)
def test_looking_makes_no_database(run: Run, tmp_path: Path, words: list[str]) -> None:
    run(*words)
    assert not list(tmp_path.iterdir())


def test_looking_makes_no_collection(run: Run, notes: Path) -> None:
    run("index", "notes")
    run("search", "x", "--collection", "other")
    run("info")
    with nf.open("library.nf") as database:
        assert database.collections() == ["docs"]


def test_version_and_help(run: Run) -> None:
    assert run("--version") == (0, f"nearfield {nf.__version__}\n", "")
    assert all(name in run("--help").out for name in ("index", "search", "info", "demo"))


# The terminal


def test_a_document_cannot_steer_the_terminal(run: Run, tmp_path: Path) -> None:
    (tmp_path / "evil.txt").write_text(
        "A [bold red]trap[/bold] [/] \x1b[2J\x1b]0;owned\x07 for cats \u202e and \x9b31m mice."
    )
    assert run("index", "evil.txt").code == 0
    ended = run("search", "trap")
    assert ended.code == 0
    assert "[bold red]trap[/bold] [/]" in ended.out
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", ended.out)


@pytest.mark.parametrize("width", [30, 60, 200])
def test_lines_fit_the_terminal(run: Run, notes: Path, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    run("index", "notes")
    for ended in (run("search", "feline"), run("info"), run("demo", "notes")):
        table = ended.out.partition("Your own:")[0]
        assert max(map(len, table.splitlines())) <= width


def test_a_terminal_without_unicode_is_no_reason_to_fail(notes: Path, tmp_path: Path) -> None:
    (notes / "money.txt").write_text("Ünïcode – naïve 日本 prices.")
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    for words in (["index", "notes"], ["search", "prices"], ["search", "prices", "--json"]):
        ended = subprocess.run(
            [*COMMAND, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )
        assert ended.returncode == 0, ended.stderr
    assert any("日本" in hit["document"] for hit in json.loads(ended.stdout)["hits"])


def test_missing_extra_is_one_sentence() -> None:
    for package in ("typer", "rich"):
        code = f"import sys; sys.modules[{package!r}] = None; from nearfield.cli import main; main()"
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert ended.returncode == 1
        assert "pip install 'nearfield[cli]'" in ended.stderr
        assert ended.stderr.count("\n") == 1


@pytest.mark.skipif(os.name == "nt", reason="signals and pipes of Unix")
def test_a_reader_that_leaves_is_no_error(run: Run, notes: Path, tmp_path: Path) -> None:
    run("index", "notes")
    for words in (["search", "cat", "--json"], ["search", "cat"], ["--help"]):
        process = subprocess.Popen([*COMMAND, *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()  # as `head` does
        assert process.stderr.read() == b""
        assert process.wait(60) in (0, 1)
        process.stderr.close()


@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
def test_ctrl_c_ends_quietly_and_keeps_what_was_stored(tmp_path: Path) -> None:
    lines = (json.dumps({"text": f"Number {n}: " + "a sentence of some length, " * 20}) for n in range(3000))
    (tmp_path / "many.jsonl").write_text("\n".join(lines))
    process = subprocess.Popen(
        [*COMMAND, "index", "many.jsonl"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if (tmp_path / "library.nf").is_dir() and contents(tmp_path / "library.nf"):
                break
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (out, err) == (b"", b"")
    assert 0 < len(contents(tmp_path / "library.nf")) < 3000


# The demonstration

ANSWERS = {
    "a feline resting on a rug": "Our cat loves the carpet",
    "my automobile refuses to start on cold mornings": "a tired battery",
    "why did the stock market crash": "In October 1929",
    "how can I fall asleep faster at night": "People who lie awake",
    "what to do when a person's heart stops beating": "When somebody collapses",
}


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    return [p.text for file in find_files([CORPUS]).files for d in read_file(file) for p in passages(d.text)]


STOP_WORDS = set(
    nf.SparseIndex(language=None).terms("""
    a about after all also am an and any are as at be been before but by can could did do does for from had has have he
    her his how i if in into is it its may me more most my no not of on one or our out over she should so some such than
    that the their them then there these they this those to up was we were what when where which who why will with would
    you your
""")
)


def content_words(text: str) -> set[str]:
    """First four letters of each word that is no stop word: coarser than any stemmer, on purpose."""
    return {word[:4] for word in re.findall(r"\w+", re.sub(r"['’]s\b", "", text.lower())) if word not in STOP_WORDS}


def test_the_corpus_is_large_enough_and_each_paragraph_has_metadata(corpus: list[str]) -> None:
    assert len(corpus) >= 80
    assert len(set(corpus)) == len(corpus)
    topics = set()
    for file in find_files([CORPUS]).files:
        for document in read_file(file):
            assert {"source", "title"} <= set(document.metadata)
            topics.add(document.metadata.get("topic", file.stem))
    assert len(topics) >= 8


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_demonstration_does_not_cheat(question: str, corpus: list[str]) -> None:
    """The right answer shares no content word with its question; keyword search finds another passage, and it does."""
    (answer,) = [text for text in corpus if ANSWERS[question] in text]
    assert content_words(question)
    assert not content_words(question) & content_words(answer)
    with nf.open() as database:
        docs = database.collection("docs", dimension=1, embedder=None)
        docs.add(documents=corpus, embeddings=[[1.0]] * len(corpus))
        (found,) = docs.search(question, k=1, mode="lexical")
    assert found.document is not None
    assert found.document != answer
    assert content_words(question) & content_words(found.document)


def test_the_demonstration_finds_the_right_answers(corpus: list[str]) -> None:
    with nf.open() as database:
        docs = database.collection("docs")
        docs.add(documents=corpus)
        for question in QUESTIONS:
            best, second = docs.search(question, k=2)
            assert ANSWERS[question] in (best.document or "")
            assert best.score > second.score + 0.02


def test_the_demonstration_prints_both_answers(run: Run) -> None:
    for words in (["demo", CORPUS], ["demo"]):
        ended = run(*words)
        assert (ended.code, ended.err) == (0, "")
        assert ended.out.count("by meaning") == ended.out.count("by keywords") == len(QUESTIONS)
        assert all(question in ended.out for question in QUESTIONS)
        assert "Indexed 107 passages of 11 files" in ended.out
        assert "nearfield search" in ended.out


def test_the_demonstration_takes_any_folder_and_keeps_the_database(run: Run, notes: Path) -> None:
    ended = run("demo", "notes", "--db", "kept.nf")
    assert ended.code == 0
    assert ended.out.count("by meaning") == 3
    assert len(contents(Path("kept.nf"))) == 3
    assert "--db kept.nf" in ended.out


def test_the_demonstration_of_an_empty_folder_says_so(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    ended = run("demo", "empty")
    assert (ended.code, ended.out) == (1, "")
    assert "no text was found" in ended.err


def test_without_the_repository_the_demonstration_asks_for_a_folder(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nearfield.cli.demo.__file__", "/nowhere/at/all/nearfield/cli/demo.py")
    ended = run("demo")
    assert ended.code == 1
    assert "nearfield demo FOLDER" in ended.err


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_in_a_terminal_the_demonstration_lets_you_ask(notes: Path, tmp_path: Path) -> None:
    import pty

    master, slave = pty.openpty()
    process = subprocess.Popen([*COMMAND, "demo", "notes"], cwd=tmp_path, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    os.write(master, b"a pet that purrs\n\n")
    seen = b""
    while True:
        try:
            piece = os.read(master, 4096)
        except OSError:
            break
        if not piece:
            break
        seen += piece
    os.close(master)
    assert process.wait(60) == 0
    assert b"Ask something yourself" in seen
    assert seen.count(b"by meaning") == 4


# Search by words, and evaluation


def test_search_by_words_by_meaning_and_by_both(run: Run, notes: Path) -> None:
    run("index", "notes")
    found = {}
    for mode in ("dense", "lexical", "hybrid"):
        found[mode] = json.loads(run("search", "an exchange of pets", "--mode", mode, "--json").out)["hits"]
    assert [hit["document"][:6] for hit in found["lexical"]] == ["Shares"]
    assert len(found["dense"]) == len(found["hybrid"]) == 3
    assert set(found["hybrid"][0]["scores"]) >= {"dense", "fused"}
    start, end = found["lexical"][0]["highlights"][0]
    assert found["lexical"][0]["document"][start:end] == "exchange"
    assert len(json.loads(run("search", "pets", "--group-by", "source", "--json").out)["hits"]) == 2
    ended = run("search", "pets", "--mode", "psychic")
    assert (ended.code, ended.out) == (1, "")
    assert "unknown mode 'psychic'" in ended.err


def test_evaluation_of_a_folder_and_of_ones_own_collection(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    (folder / "qrels").mkdir(parents=True)
    texts = {"cat": "The cat sat on the mat.", "stocks": "Stocks fell sharply."}
    (folder / "corpus.jsonl").write_text("\n".join(json.dumps({"_id": id, "text": texts[id]}) for id in texts))
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "a feline"}\n{"_id": "q2", "text": "crash"}')
    (folder / "qrels" / "test.tsv").write_text("q1\tcat\t1\nq2\tstocks\t0\n")
    ended = run("eval", folder, "--json", "--mode", "dense", "-k", "1", "-k", "2", "--db", "kept.nf")
    assert (ended.code, ended.err) == (0, "")
    answer = json.loads(ended.out)
    assert (answer["name"], answer["queries"], answer["skipped"], answer["records"]) == ("tiny", 1, 1, 2)
    assert answer["systems"]["dense"]["recall@1"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert {key.split("@")[1] for key in answer["systems"]["dense"]} == {"1", "2"}
    assert contents(Path("kept.nf"), "tiny") == texts
    (folder / "corpus.jsonl").unlink()
    shown = run("eval", folder, "--db", "kept.nf", "--collection", "tiny")
    assert shown.code == 0
    for word in ("dense", "lexical", "hybrid", "ndcg@10", "1 query, 1 without a relevant document; 2 records"):
        assert word in shown.out
    for words, code, said in (
        (("eval", folder), 1, "corpus.jsonl"),
        (("eval", folder, "--collection", "tiny"), 2, "--db"),
        (("eval", folder, "--db", "none.nf", "--collection", "tiny"), 1, "no database"),
        (("eval", folder, "--db", "kept.nf", "--collection", "other"), 1, "no collection 'other'"),
        (("eval", tmp_path / "nowhere"), 1, "qrels"),
    ):
        ended = run(*words)
        assert ended.code == code
        assert said in ended.err
    assert not Path("none.nf").exists()
