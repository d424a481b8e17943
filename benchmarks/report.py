"""Results of `ann.py` as tables and pictures.

python benchmarks/report.py benchmarks/results/ann-minilm.json             # the table again
python benchmarks/report.py benchmarks/results/ann-minilm.json --concepts  # the pictures of docs/concepts
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TARGETS = (0.9, 0.95, 0.98, 0.99)
MODES = {"one": "one query at a time, one thread", "all": "all queries at once, {threads} threads"}
OWN = {"hnsw": "#0b6e99", "ivf": "#d9730d", "ivf_pq": "#6940a5", "lsh": "#ad1a72", "flat": "#0f7b6c"}
PEERS = ("#c03b2b", "#8a6d1d", "#4d8b31", "#3c6eb4", "#9b5fa5", "#2a9d8f", "#bc6c25", "#5c677d")
RIVALS = {
    "hnsw": ("symphonyqg", "hnswlib", "faiss-hnsw"),
    "ivf": ("faiss-ivf",),
    "ivf_pq": ("faiss-ivfpqfs",),
    "flat": ("faiss-flat",),
    "lsh": (),
}
NAMES = {"symphonyqg": "SymphonyQG", "faiss-ivf": "faiss IVF", "faiss-ivfpqfs": "faiss IVF, PQ fast scan"}
MAPPED = 64  # bytes a vector: fewer are the library's own code
Curve = Sequence[tuple[float, float]]


def curve(points: list[dict[str, Any]], mode: str) -> Curve:
    """(recall, queries a second) by rising recall, without points that another beats in both."""
    recall = "recall" if mode == "one" else "recall_all"
    kept: list[tuple[float, float]] = []
    for point in sorted(((point[recall], point[f"qps_{mode}"]) for point in points), reverse=True):
        if not kept or point[1] > kept[-1][1]:
            kept.append(point)
    return kept[::-1]


def reached(points: Curve, target: float) -> float | None:
    """Queries a second at a recall: between the two measured points around it (the logarithm of the speed is taken as
    linear), at the first point if that is above it already, None if none reaches it."""
    for (low, fast), (high, slow) in itertools.pairwise(points):
        if low < target <= high:
            return fast * (slow / fast) ** ((target - low) / (high - low))
    return points[0][1] if points and points[0][0] >= target else None


def table(result: dict[str, Any]) -> str:
    """Markdown: for each k and mode a row a peer, the fastest at .95 first."""
    head = f"{result['rows']:,} x {result['dimension']}, {result['data']}, {result['processor']}"
    modes = {mode: MODES[mode] for mode in result["modes"]}
    lines = [f"{head}; medians of {result['rounds']} rounds", ""]
    for (k, curves), (mode, described) in itertools.product(result["k"].items(), modes.items()):
        title = f"queries a second at recall@{k}, {described.format(**result)}"
        heads = [
            title,
            *(f"{target:.2f}"[1:] for target in TARGETS),
            "build, s",
            "bytes a vector (+ mapped)",
            "peak, MB",
        ]
        lines.append(f"| {' | '.join(heads)} |")
        lines.append("|---|" + "---:|" * (len(TARGETS) + 3))
        rows = []
        for name, points in curves.items():
            about = result["indexes"][name]
            speeds = [reached(curve(points, mode), target) for target in TARGETS]
            cells = ["not reached" if speed is None else f"{speed:,.0f}" for speed in speeds]
            cells += [f"{about['build_seconds']:.1f}", f"{about['held_bytes_a_vector']:,}"]
            if about["mapped_bytes_a_vector"] > MAPPED:
                cells[-1] += f" + {about['mapped_bytes_a_vector']:,}"
            cells.append(f"{about['build_peak_bytes'] / 1e6:,.0f}")
            label = f"**{name}**" if name.startswith("nearfield") else name
            rows.append((-(speeds[1] or 0), f"| {label} | " + " | ".join(cells) + " |"))
        lines += [line for _, line in sorted(rows)] + [""]
    lines += [f"{name} is left out: {reason}" for name, reason in result["left_out"].items()]
    return "\n".join(lines)


def _axes(low: float, title: str, size: tuple[float, float]) -> tuple[Any, Any]:
    """Axes whose recall stretches towards 1: the distance from .9 to .99 is that from .99 to .999."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=size, dpi=130, layout="constrained")
    ticks = [tick for tick in (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998) if tick >= low]
    axes.set_xticks([*map(_place, ticks), _place(1)], [*(f"{tick:g}" for tick in ticks), "1"])
    axes.set_xlim(_place(low), _place(0.999))
    axes.set_yscale("log")
    axes.set_title(title, loc="left", fontsize=10, color="0.25")
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors="0.35", labelsize=8.5, which="both")
    return figure, axes


def _place(recall: float) -> float:
    return -math.log10(max(1 - recall, 1e-3))


def _thousands(axes: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator

    axes.yaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_minor_locator(LogLocator(10, subs=()))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _line(axes: Any, points: Curve, colour: str, label: str, strong: bool) -> None:
    shown = [(_place(recall), speed) for recall, speed in points]
    axes.plot(
        *zip(*shown, strict=True),
        marker="o" if strong else ".",
        markersize=5 if strong else 4,
        linewidth=2.4 if strong else 1.3,
        color=colour,
        label=label,
        zorder=4 if strong else 3,
        clip_on=False,
    )


def draw(result: dict[str, Any], output: Path) -> None:
    """A picture of every k beside `output`: one panel a mode, the order of the legend that of the speeds at .95."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    modes = {mode: MODES[mode] for mode in result["modes"]}
    for (k, curves), (mode, described) in itertools.product(result["k"].items(), modes.items()):
        lines = {name: curve(points, mode) for name, points in curves.items()}
        order = sorted(lines, key=lambda name: -(reached(lines[name], 0.95) or 0))
        colours = itertools.cycle(PEERS)
        title = f"{result['rows']:,} × {result['dimension']}, {result['data']}: {described.format(**result)}"
        figure, axes = _axes(0.8, title, (9, 5))
        for name in order:
            kind = name.removeprefix("nearfield-")
            strong = kind in OWN and name != kind
            inside = [point for point in lines[name] if point[0] >= 0.8]
            if inside:
                _line(axes, inside, OWN[kind] if strong else next(colours), name, strong)
        _thousands(axes)
        axes.set_xlabel(f"recall@{k}", color="0.25")
        axes.set_ylabel("queries a second", color="0.25")
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8.5)
        figure.savefig(output.with_name(f"{output.stem}-{k}-{mode}.png"))
        plt.close(figure)


def concepts(result: dict[str, Any], folder: Path) -> None:
    """One picture a kind: its curve strong, its rivals in colour, the other kinds in grey."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lines = {name: curve(points, "one") for name, points in result["k"]["10"].items()}
    for kind, rivals in RIVALS.items():
        if not lines.get(f"nearfield-{kind}"):
            continue  # it was not in this run
        title = f"{result['rows']:,} MiniLM vectors of 384 dimensions, k = 10, one thread"
        figure, axes = _axes(0.7, title, (6.6, 3.9))
        for other in OWN:
            if other != kind and lines.get(f"nearfield-{other}"):
                _concept(axes, lines[f"nearfield-{other}"], "0.78", other, False)
        for rival, colour in zip(rivals, PEERS, strict=False):
            if lines.get(rival):
                _concept(axes, lines[rival], colour, NAMES.get(rival, rival.replace("-", " ")), False)
        _concept(axes, lines[f"nearfield-{kind}"], OWN[kind], kind, True)
        _thousands(axes)
        axes.set_xlabel("recall@10", color="0.25")
        axes.set_ylabel("queries a second", color="0.25")
        figure.savefig(folder / f"{kind}.png")
        plt.close(figure)


def _concept(axes: Any, points: Curve, colour: str, label: str, strong: bool) -> None:
    inside = [point for point in points if point[0] >= 0.7]
    _line(axes, inside, colour, label, strong)
    place, speed = _place(inside[-1][0]), inside[-1][1]
    near = [y for x, y in (text.xy for text in axes.texts) if abs(x - place) < 0.3 and 0.8 < y / speed < 1.25]
    axes.annotate(
        label,
        (place, speed),
        textcoords="offset points",
        xytext=(7, 7 if near and speed > near[0] else -7 if near else 0),  # so that labels do not cover each other
        va="center",
        fontsize=9.5 if strong else 8,
        fontweight="bold" if strong else "normal",
        color=colour if colour != "0.78" else "0.55",
        annotation_clip=False,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("--concepts", action="store_true", help="draw the pictures of docs/concepts")
    options = parser.parse_args()
    result = json.loads(options.result.read_text())
    if options.concepts:
        concepts(result, Path(__file__).parents[1] / "docs" / "concepts")
    else:
        print(table(result))
        draw(result, options.result)


if __name__ == "__main__":
    main()
