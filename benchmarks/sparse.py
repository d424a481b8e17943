"""Keyword search against bm25s and tantivy: the same words, the same queries, one thread each, in the same minutes.

    pip install -e '.[bench]' && python benchmarks/sparse.py     # 1,000,000 documents; needs 12 GB of memory
    python benchmarks/sparse.py --documents 100000

All rank by BM25 (k1 = 1.2, b = 0.75) and get texts that are cut into words already. Before any timing answers are
compared, place by place, by their scores. tantivy rounds the lengths of documents to a byte, so that its scores may
differ; how many of its documents are the same is part of the result. Rounds are interleaved; a figure is the mean over
the queries of the median of their rounds, so that a query that another program interrupted does not count. bm25s as it
comes takes a thousand times as long and has one round. Where the judged collection SciFact is at hand, nDCG@10 of
nearfield and bm25s stands beside.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
SHARED = Path(__file__).parents[2] / "shared" / "data"
K1, B = 1.2, 0.75
STOP = re.findall(r"\w+", "a an and are as at be by for from in is it of on or that the this to was we which with")

Answer = list[tuple[int, float]]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=100, help="of each sort")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="*", default=list(CONTENDERS))
    parser.add_argument("--output", type=Path, default=HERE / "results" / "sparse.json")
    return parser.parse_args()


# -- data -----------------------------------------------------------------------------------------------------------


def sources() -> tuple[list[list[str]], list[list[str]], str]:
    """Texts and titles as words: real passages where they are at hand, otherwise words by Zipf's law around topics."""
    path = SHARED / "passages" / "passages.jsonl.gz"
    if path.exists():
        stop = set(STOP)
        cut = re.compile(r"[a-z0-9]+")
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            records = [json.loads(line) for line in lines]
        words = [[w for w in cut.findall(r["text"].lower()) if w not in stop] for r in records]
        titles = [[w for w in cut.findall((r["title"] or "").lower()) if w not in stop] for r in records]
        return words, titles, f"{len(words):,} real passages, mixed"
    rng = np.random.default_rng(1)
    weights = 1 / np.arange(1, 200_001)
    weights /= weights.sum()
    topics = [rng.choice(200_000, 60, p=weights) for _ in range(50_000)]
    texts = [[f"w{number}" for number in topic] for topic in topics]
    return texts, [text[:6] for text in texts], "words by Zipf's law around 50,000 topics"


def corpus(count: int) -> tuple[NDArray[np.int32], NDArray[np.int64], list[str], list[list[str]], str]:
    """Documents as numbers of words, one behind the other, and where each begins; the words; titles; a line on them.

    A document takes 70 % of its words from one passage and the others from all passages, by their frequency. Its length
    is log-normal around 60 words.
    """
    texts, titles, about = sources()
    vocabulary: dict[str, int] = {}
    numbers = [np.array([vocabulary.setdefault(w, len(vocabulary)) for w in text] or [0], np.int32) for text in texts]
    pool = np.concatenate(numbers)
    begin = np.concatenate([[0], np.cumsum([len(n) for n in numbers])])
    rng = np.random.default_rng(0)
    lengths = np.clip(np.exp(rng.normal(math.log(55), 0.5, count)), 3, 600).astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    passage = np.repeat(rng.integers(len(numbers), size=count), lengths)
    size = (begin[1:] - begin[:-1])[passage]
    from_passage = begin[passage] + (rng.random(starts[-1]) * size).astype(np.int64)
    anywhere = rng.integers(len(pool), size=int(starts[-1]))
    ids = pool[np.where(rng.random(starts[-1]) < 0.7, from_passage, anywhere)]
    return ids, starts, list(vocabulary), [t for t in titles if 3 <= len(t) <= 8], about


def queries(
    ids: NDArray[np.int32], words: list[str], titles: list[list[str]], count: int
) -> dict[str, list[list[str]]]:
    """Sorts of queries: titles, one word, and few words that are all frequent (the worst case)."""
    rng = np.random.default_rng(2)
    frequency = np.bincount(ids, minlength=len(words))
    frequent = np.argsort(-frequency)[:200]
    some = np.flatnonzero((frequency > 100) & (frequency < len(ids) / 500))
    return {
        "titles": [titles[i] for i in rng.permutation(len(titles))[:count]],
        "one word": [[words[i]] for i in rng.choice(some, count)],
        "frequent words": [[words[i] for i in rng.choice(frequent, 3, replace=False)] for _ in range(count)],
    }


# -- contenders: each is built of texts and answers a query with (document, score) pairs ----------


class Nearfield:
    def __init__(self, texts: list[str], **_: Any) -> None:
        from nearfield import SparseIndex

        self.index = SparseIndex(language=None, k1=K1, b=B)
        self.index.add(texts)
        self.index.threads = 1
        self.bytes = self.index.nbytes

    def answer(self, query: list[str], k: int) -> Answer:
        ids, scores = self.index.search(" ".join(query), k)
        return [(i, s) for i, s in zip(ids.tolist(), scores.tolist(), strict=True) if i >= 0]

    def timed(self, query: list[str]) -> Callable[[int], Any]:
        text = " ".join(query)
        return lambda k: self.index.search(text, k)


class Tantivy:
    def __init__(self, texts: list[str], **_: Any) -> None:
        import tantivy

        self.tantivy = tantivy
        schema = tantivy.SchemaBuilder()
        schema.add_text_field("text", stored=False, tokenizer_name="whitespace", index_option="freq")
        self.folder = tempfile.TemporaryDirectory()
        index = tantivy.Index(schema.build(), path=self.folder.name)
        self.schema = index.schema
        writer = index.writer(3_500_000_000, 1)  # one thread and room for all: one segment, the best it can have
        for text in texts:
            writer.add_document(tantivy.Document(text=text))
        writer.commit()
        writer.wait_merging_threads()
        index.reload()
        self.searcher = index.searcher()
        self.segments = self.searcher.num_segments
        self.bytes = sum(path.stat().st_size for path in Path(self.folder.name).iterdir() if path.suffix != ".store")

    def query(self, words: list[str]) -> Any:
        query, occur = self.tantivy.Query, self.tantivy.Occur
        return query.boolean_query([(occur.Should, query.term_query(self.schema, "text", word)) for word in words])

    def answer(self, query: list[str], k: int) -> Answer:
        found = self.searcher.search(self.query(query), k, count=False)
        return [(address.doc, score / (K1 + 1)) for score, address in found.hits]

    def timed(self, query: list[str]) -> Callable[[int], Any]:
        ready = self.query(query)
        return lambda k: self.searcher.search(ready, k, count=False)


class Bm25sNumba:
    def __init__(self, texts: list[str], ids: NDArray[np.int32], starts: NDArray[np.int64], words: list[str]) -> None:
        import bm25s

        self.index = bm25s.BM25(method="lucene", k1=K1, b=B, backend="numba")
        rows = [ids[a:b].tolist() for a, b in pairwise(starts)]
        tokens = bm25s.tokenization.Tokenized(ids=rows, vocab={word: i for i, word in enumerate(words)})
        self.index.index(tokens, show_progress=False)
        self.bytes = sum(value.nbytes for value in self.index.scores.values() if hasattr(value, "nbytes"))

    def answer(self, query: list[str], k: int) -> Answer:
        ids, scores = self.index.retrieve([query], k=k, show_progress=False, n_threads=1)
        return [(i, s) for i, s in zip(ids[0].tolist(), scores[0].tolist(), strict=True) if s > 0]

    def timed(self, query: list[str]) -> Callable[[int], Any]:
        return lambda k: self.index.retrieve([query], k=k, show_progress=False, n_threads=1)


class Bm25s(Bm25sNumba):
    """As it comes: without numba."""

    def __init__(self, other: Bm25sNumba) -> None:
        self.index = copy.copy(other.index)
        self.index.backend = "numpy"


CONTENDERS: dict[str, Any] = {"nearfield": Nearfield, "tantivy": Tantivy, "bm25s with numba": Bm25sNumba}


# -- judged quality -------------------------------------------------------------------------------------------------


def scifact(k: int = 10) -> dict[str, float]:
    """nDCG@10 on SciFact with nearfield's own words: nearfield's scores, and bm25s's of the same words."""
    import bm25s

    from nearfield import SparseIndex

    folder = SHARED / "ir" / "scifact"
    if not folder.exists():
        return {}
    records = [json.loads(line) for line in (folder / "corpus.jsonl").read_text("utf-8").splitlines()]
    asked = [json.loads(line) for line in (folder / "queries.jsonl").read_text("utf-8").splitlines()]
    judged: dict[str, dict[str, float]] = {}
    for line in (folder / "qrels.tsv").read_text("utf-8").splitlines()[1:]:
        query, document, relevance = line.split("\t")
        judged.setdefault(query, {})[document] = float(relevance)
    texts = [f"{record['title']} {record['text']}" for record in records]
    index = SparseIndex(k1=K1, b=B)
    index.add(texts)

    def ndcg(ranking: list[str], relevant: dict[str, float]) -> float:
        gains = [relevant.get(id, 0.0) / math.log2(rank + 2) for rank, id in enumerate(ranking)]
        ideal = [gain / math.log2(rank + 2) for rank, gain in enumerate(sorted(relevant.values(), reverse=True)[:k])]
        return sum(gains) / sum(ideal)

    def mean(search: Callable[[str], list[int]]) -> float:
        found = [
            ndcg([records[i]["id"] for i in search(query["text"])], judged[query["id"]])
            for query in asked
            if query["id"] in judged
        ]
        return round(statistics.fmean(found), 4)

    peer = bm25s.BM25(method="lucene", k1=K1, b=B)
    peer.index([index.terms(text) for text in texts], show_progress=False)

    def same(text: str) -> list[int]:
        return peer.retrieve([index.terms(text)], k=k, show_progress=False)[0][0].tolist()

    library = bm25s.BM25(method="lucene")  # as its own README has it
    library.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)

    def own(text: str) -> list[int]:
        tokens = bm25s.tokenize([text], stopwords="en", show_progress=False, return_ids=False)
        return library.retrieve(tokens, k=k, show_progress=False)[0][0].tolist()

    return {
        "nearfield": mean(lambda text: [i for i in index.search(text, k)[0].tolist() if i >= 0]),
        "bm25s, the same words": mean(
            lambda text: peer.retrieve([index.terms(text)], k=k, show_progress=False)[0][0].tolist()
        ),
        "bm25s, its own words and k1 = 1.5": mean(own),
    }


# -- the run --------------------------------------------------------------------------------------------------------


def differences(one: list[Answer], other: list[Answer]) -> int:
    """Queries whose scores differ at any place by more than single precision explains."""
    return sum(
        len(a) != len(b) or any(not math.isclose(x[1], y[1], rel_tol=1e-5) for x, y in zip(a, b, strict=True))
        for a, b in zip(one, other, strict=True)
    )


def overlap(one: list[Answer], other: list[Answer]) -> float:
    shares = [len({i for i, _ in a} & {i for i, _ in b}) / max(1, len(a)) for a, b in zip(one, other, strict=True)]
    return round(statistics.fmean(shares), 4)


def timed(call: Callable[[int], Any], k: int) -> float:
    """Milliseconds of one call."""
    start = time.perf_counter()
    call(k)
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    options = arguments()
    import nearfield as nf

    if nf.build_info()["profile"] != "release":
        sys.exit("this is a debug build: pip install -e . builds a release")
    result: dict[str, Any] = {"ndcg@10 on scifact": scifact() if "bm25s with numba" in options.only else {}}
    print(result, file=sys.stderr)
    ids, starts, words, titles, about = corpus(options.documents)
    asked = queries(ids, words, titles, options.queries)
    array = np.array(words, dtype=object)
    texts = [" ".join(array[ids[a:b]]) for a, b in pairwise(starts)]
    result |= {"documents": len(texts), "data": about, "words": len(ids), "k": options.k, "build": {}, "tasks": {}}
    contenders: dict[str, Any] = {}
    for name in options.only:
        start = time.perf_counter()
        contenders[name] = CONTENDERS[name](texts=texts, ids=ids, starts=starts, words=words)
        seconds = time.perf_counter() - start
        result["build"][name] = {"seconds": round(seconds, 2), "megabytes": round(contenders[name].bytes / 1e6)}
        print(name, result["build"][name], getattr(contenders[name], "segments", ""), file=sys.stderr)
    if "bm25s with numba" in contenders:
        contenders["bm25s"] = Bm25s(contenders["bm25s with numba"])
    for sort, group in asked.items():
        answers = {name: [engine.answer(q, options.k) for q in group] for name, engine in contenders.items()}
        report = contenders["nearfield"].index.search([" ".join(q) for q in group], options.k, report=True)[2]
        runs = {name: [engine.timed(query) for query in group] for name, engine in contenders.items()}
        timings: dict[str, list[list[float]]] = {name: [] for name in runs}
        for i in range(options.rounds):
            for name, calls in runs.items():
                if i > 0 and name == "bm25s":
                    continue
                timings[name].append([timed(call, options.k) for call in calls])
        medians = {name: np.median(rounds, axis=0) for name, rounds in timings.items()}
        result["tasks"][sort] = {
            "milliseconds": {name: round(float(np.mean(queries)), 4) for name, queries in medians.items()},
            "rounds": {name: np.mean(rounds, axis=1).round(4).tolist() for name, rounds in timings.items()},
            "postings scored a query": report.rows_scanned // len(group),
            "queries with other scores": {n: differences(answers["nearfield"], a) for n, a in answers.items()},
            "share of the same documents": {n: overlap(answers["nearfield"], a) for n, a in answers.items()},
        }
        print(sort, json.dumps({k: v for k, v in result["tasks"][sort].items() if k != "rounds"}), file=sys.stderr)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=HERE, capture_output=True, text=True).stdout.strip()
    result |= {
        "load": os.getloadavg()[0],
        "commit": commit,
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    if set(options.only) == set(CONTENDERS):
        options.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
