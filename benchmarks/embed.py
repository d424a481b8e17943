"""The local embedder against sentence-transformers (torch): the same model, texts and cores, in the same minutes.

    pip install 'nearfield[local,sentence-transformers]'
    python benchmarks/embed.py                             # a minute or two, 2 GB of memory
    python benchmarks/embed.py --peer-python other/bin/python   # sentence-transformers in an environment of its own

Each contender is a process of its own, pinned to the same cores, with that many threads. The rounds are interleaved
(each contender once, then again), and a figure is the median of its rounds. Memory is the peak of resident memory of
the whole process. CPU time a text is told beside texts a second: on a busy machine it is the steadier of the two.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PASSAGES = HERE.parents[1] / "shared" / "data" / "passages" / "passages.jsonl.gz"
WORDS = 60
CONTENDERS = {  # name: (engine, texts a batch)
    "nearfield": ("nearfield", 0),
    "sentence-transformers, batch 4": ("peer", 4),
    "sentence-transformers, batch 8": ("peer", 8),
    "sentence-transformers, batch 32 (its default)": ("peer", 32),
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--texts", type=int, default=128, help="texts a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "embed.json")
    parser.add_argument("--worker", nargs=3, metavar=("ENGINE", "BATCH", "FOLDER"), help=argparse.SUPPRESS)
    return parser.parse_args()


def load_texts(count: int, vocabulary: Path) -> tuple[list[str], str]:
    """Texts of 60 words: the beginnings of real passages, or words of the model's vocabulary in random order."""
    if PASSAGES.is_file():
        texts: list[str] = []
        with gzip.open(PASSAGES, "rt", encoding="utf-8") as lines:
            for line in lines:
                words = json.loads(line)["text"].split()
                if len(words) >= WORDS:
                    texts.append(" ".join(words[:WORDS]))
                if len(texts) == count:
                    return texts, "the first 60 words of real passages"
    words = [word for word in vocabulary.read_text(encoding="utf-8").split() if word.isascii() and word.isalpha()]
    draw = random.Random(0)
    return [" ".join(draw.choices(words, k=WORDS)) for _ in range(count)], "60 random words of the vocabulary"


def worker(engine: str, batch: int, folder: str) -> None:
    """Load the model, then encode the texts of standard input's first line once for every further line."""
    threads = len(os.sched_getaffinity(0))
    texts = json.loads(sys.stdin.readline())
    if engine == "nearfield":
        from nearfield.embed import LocalEmbedder

        encode = LocalEmbedder(folder, threads=threads).encode_documents
        packages = ["nearfield", "onnxruntime", "tokenizers"]
    else:
        os.environ["HF_HUB_OFFLINE"] = "1"
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(threads)
        model = SentenceTransformer(folder, device="cpu")

        def encode(texts: list[str]) -> Any:
            return model.encode(texts, batch_size=batch, show_progress_bar=False)

        packages = ["sentence-transformers", "torch", "transformers"]
    encode(texts[:16])
    answer({"versions": {package: version(package) for package in packages}})
    for line in sys.stdin:
        start, used = time.perf_counter(), time.process_time()
        vectors = encode(texts)
        seconds, used = time.perf_counter() - start, time.process_time() - used
        report: dict[str, Any] = {"texts_per_second": len(texts) / seconds, "cpu_ms_per_text": 1e3 * used / len(texts)}
        # Before the vectors are written out as text, which takes memory of its own.
        report["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if line.strip() == "vectors":
            report["vectors"] = vectors.tolist()
        answer(report)


def answer(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)


class Contender:
    """A worker process on the given cores."""

    def __init__(self, python: str, engine: str, batch: int, folder: Path, cores: set[int], cache: str) -> None:
        command = [python, __file__, "--worker", engine, str(batch), str(folder)]
        environment = os.environ | {"NEARFIELD_CACHE": cache, "TOKENIZERS_PARALLELISM": "true", "TQDM_DISABLE": "1"}
        if engine == "peer":
            environment.pop("PYTHONPATH", None)
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),  # before any thread of any library exists
        )

    def ask(self, line: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answered = self.process.stdout.readline()
        if not answered:
            sys.exit(
                f"a worker ended with code {self.process.wait()}: are its packages installed? See the first lines here"
            )
        result: dict[str, Any] = json.loads(answered)
        return result

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)


def measure(options: argparse.Namespace, cache: str) -> dict[str, Any]:
    from nearfield.embed import weights

    folder = weights.find(weights.DEFAULT_MODEL, download=False)
    texts, source = load_texts(options.texts, folder / "vocab.txt")
    cores = set(sorted(os.sched_getaffinity(0))[-options.cores :])
    asked = json.dumps(texts)

    first = Contender(sys.executable, "nearfield", 0, folder, cores, cache)  # builds the graph
    first.ask(asked)
    first_peak = first.ask("")["peak_mib"]
    first.close()

    contenders, versions = {}, {"python": platform.python_version()}
    for name, (engine, batch) in CONTENDERS.items():
        python = sys.executable if engine == "nearfield" else options.peer_python
        contenders[name] = Contender(python, engine, batch, folder, cores, cache)
        versions |= contenders[name].ask(asked)["versions"]
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for number in range(options.rounds):
        for name, contender in contenders.items():
            rounds[name].append(contender.ask(""))
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
    ours, theirs = (contenders[name].ask("vectors")["vectors"] for name in list(CONTENDERS)[:2])
    for contender in contenders.values():
        contender.close()

    cosines = [sum(x * y for x, y in zip(one, other, strict=True)) for one, other in zip(ours, theirs, strict=True)]
    figures = {
        name: {
            "texts_per_second": round(statistics.median(r["texts_per_second"] for r in these), 1),
            "cpu_ms_per_text": round(statistics.median(r["cpu_ms_per_text"] for r in these), 2),
            "peak_mib": round(max(r["peak_mib"] for r in these)),
            "rounds_texts_per_second": [round(r["texts_per_second"], 1) for r in these],
        }
        for name, these in rounds.items()
    }
    peers = [figure for name, figure in figures.items() if name != "nearfield"]
    return {
        "model": weights.DEFAULT_MODEL,
        "texts": {"count": len(texts), "words": WORDS, "source": source},
        "processor": processor(),
        "cores": options.cores,
        "cores_of_machine": os.cpu_count(),
        "load_average_at_end": round(os.getloadavg()[0], 1),
        "versions": versions,
        "lowest_cosine": round(min(cosines), 6),
        "contenders": figures,
        "peak_mib_first_use": round(first_peak),
        "speed_ratio_to_best_peer": round(
            figures["nearfield"]["texts_per_second"] / max(figure["texts_per_second"] for figure in peers), 2
        ),
        "memory_ratio_to_smallest_peer": round(
            figures["nearfield"]["peak_mib"] / min(figure["peak_mib"] for figure in peers), 2
        ),
    }


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['model']}, {result['texts']['count']} texts of {WORDS} words, "
        f"{result['cores']} cores, {result['processor']}",
        "",
        "| engine | texts/s | CPU ms/text | peak memory |",
        "|---|---:|---:|---:|",
    ]
    for name, figure in result["contenders"].items():
        row = (name, figure["texts_per_second"], figure["cpu_ms_per_text"], f"{figure['peak_mib']} MiB")
        lines.append(f"| {' | '.join(map(str, row))} |")
    lines += [
        "",
        f"{result['speed_ratio_to_best_peer']} x the best peer's speed, "
        f"{result['memory_ratio_to_smallest_peer']} x the smallest peer's memory "
        f"(the first use, which builds the graph: {result['peak_mib_first_use']} MiB), "
        f"lowest cosine between the two {result['lowest_cosine']}",
    ]
    return "\n".join(lines)


def main() -> None:
    options = arguments()
    if options.worker:
        warnings.simplefilter("ignore")
        engine, batch, folder = options.worker
        worker(engine, int(batch), folder)
        return
    if not hasattr(os, "sched_setaffinity"):
        sys.exit("this benchmark pins its processes to cores, which needs Linux")
    with tempfile.TemporaryDirectory() as cache:
        result = measure(options, cache)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(result))


if __name__ == "__main__":
    main()
