"""Pictures: the map of a collection, how scores are spread, and recall against speed.

A `.png`, `.svg` or `.pdf` is drawn by matplotlib (extra plot); a map as `.html` needs nothing and shows each text under
the mouse. Files are written whole or not at all.
"""

from __future__ import annotations

import contextlib
import html
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nearfield import inputs
from nearfield._optional import require
from nearfield.errors import InvalidInput, StorageError
from nearfield.plot.layout import METHODS, pca, points

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nearfield.collection import Collection
    from nearfield.types import Record, Where

__all__ = ["METHODS", "pca", "plot_map", "plot_recall", "plot_scores", "points", "suggested_threshold"]

# Told apart by people who see no red or no green as well (Okabe and Ito 2008), then a few darker ones.
_PALETTE = [
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#D55E00",
    "#56B4E9",
    "#8C564B",
    "#6A3D9A",
    "#B2DF8A",
    "#4D4D4D",
    "#F0E442",
    "#1B4F72",
]
_OTHER = "#BBBBBB"
_RAMP = ["#440154", "#3B528B", "#21908D", "#5DC963", "#FDE725"]  # dark is little, light is much
_TEXT = 300  # characters of a document under the mouse
_PAGE = 20_000


class Colouring(NamedTuple):
    """A colour and a label for each point; `legend`, or for numbers their `ramp`: least, most, and colours between."""

    colours: list[str]
    labels: list[str]
    groups: list[int]
    legend: list[tuple[str, str]]
    ramp: list[str]


def plot_map(
    collection: Collection,
    path: str | Path,
    *,
    method: str = "pca",
    color: str | Mapping[str, Any] | None = None,
    where: Where | None = None,
    limit: int = 20_000,
    title: str | None = None,
    seed: int = 0,
) -> int:
    """Draw the records of a collection as points, near where their meaning is near.

    Args:
        path: `.html`: to look into, with each text under the mouse; `.png`, `.svg` or `.pdf`: a picture.
        method: "pca", "umap" or "tsne", see `points`.
        color: a field of the metadata, or a dictionary from ids to values, such as each record's topic. Numbers become
            a scale, all else up to twelve colours.
        where, limit: which records, and how many at most: of more, an even sample is drawn.

    Returns:
        How many records were drawn.

    Raises:
        InvalidInput: the collection has no such record, no record has the field `color`, the method or the kind of file
            is unknown.
        MissingExtra: matplotlib, scikit-learn or umap-learn is needed and not installed.
        StorageError: the file cannot be written.

    Example:
        >>> plot_map(docs, "map.html", color="year")
        2
    """
    target = _target(path, (".html", ".png", ".svg", ".pdf"))
    records, total = _sample(collection, where, inputs.positive(limit, "limit"))
    if not records:
        raise InvalidInput(f"collection {collection.name!r} has no record to draw" + (" that matches" if where else ""))
    if isinstance(color, str) and not any(color in record.metadata for record in records):
        fields = sorted({field for record in records for field in record.metadata})
        raise InvalidInput(f"color: no record has the field {color!r}; there is {', '.join(fields) or 'none'}")
    vectors = np.stack([record.embedding for record in records if record.embedding is not None])
    placed = points(vectors, method, seed=seed)
    colouring = _coloured([_value(record, color) for record in records])
    heading = title or collection.name
    of = f"{len(records):,} of {total:,} records" if total > len(records) else f"{total:,} records"
    subtitle = f"{of}, {method.upper().replace('TSNE', 't-SNE')}" + (f", by {color}" if isinstance(color, str) else "")
    if target.suffix.lower() == ".html":
        with _written(target) as temporary:
            temporary.write_text(_page(records, placed, colouring, heading, subtitle), encoding="utf-8")
        return len(records)
    figure, axes = _axes((9.0, 7.0))
    size = 24 if len(records) <= 2000 else 8 if len(records) <= 20_000 else 3
    axes.scatter(placed[:, 0], placed[:, 1], s=size, c=colouring.colours, alpha=0.8, linewidths=0)
    axes.set_aspect("equal", "datalim")
    axes.set_axis_off()
    _legend(figure, axes, colouring)
    _titled(axes, heading, subtitle)
    _save(figure, target)
    return len(records)


def suggested_threshold(scores: Any, share: float = 0.995) -> float:
    """A `min_score` that only `1 - share` of unrelated texts would reach.

    Args:
        scores: of queries against records taken at random, any shape: nearly all of them are unrelated.
    """
    values = np.asarray(scores, dtype=np.float64).ravel()
    if not len(values):
        raise InvalidInput("there are no scores to suggest a threshold from")
    return float(np.quantile(values, share))


def plot_scores(
    collection: Collection, queries: Sequence[str], path: str | Path, *, k: int = 10, sample: int = 2000, seed: int = 0
) -> float:
    """Draw how the scores of answers lie against those of records taken at random, and where to set `min_score`.

    Args:
        queries: questions such as are asked of this collection; more of them, a better threshold.
        path: `.png`, `.svg` or `.pdf`.
        k: how many answers to each are drawn.
        sample: how many records are taken at random.

    Returns:
        The suggested threshold: see `suggested_threshold`.

    Raises:
        InvalidInput: there are no queries, no records, or the collection does not rank by cosine or dot product.
        MissingExtra: matplotlib is not installed.
    """
    target = _target(path, (".png", ".svg", ".pdf"))
    embedder = collection.embedder
    if not queries or embedder is None or not collection.count() or collection.metric == "l2":
        raise InvalidInput("plot_scores() needs queries, and records of a collection with an embedder, not by l2")
    records, _ = _sample(collection, None, inputs.positive(sample, "sample"), np.random.default_rng(seed))
    vectors = np.stack([record.embedding for record in records if record.embedding is not None])
    asked = np.asarray(embedder.encode_queries(list(queries)), dtype=np.float32)
    if collection.metric == "cosine":
        vectors, asked = (
            rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30) for rows in (vectors, asked)
        )
    found = collection.search(list(queries), k=k)
    answers = np.array([hit.score for hits in found for hit in hits])
    own = [set(hits.ids) for hits in found]  # a small collection has hardly a record that is no answer
    unrelated = np.array([[record.id not in ids for record in records] for ids in own])
    if not unrelated.any():
        raise InvalidInput(f"collection {collection.name!r} has no more than {k} records: all of them are answers")
    chance = (asked @ vectors.T)[unrelated]
    threshold = suggested_threshold(chance)
    figure, axes = _axes((8.0, 4.5))
    edges = np.histogram_bin_edges(np.concatenate([chance, answers]), bins=60)
    axes.hist(chance, edges, density=True, color=_OTHER, label=f"other records at random ({len(chance):,})")
    axes.hist(
        answers, edges, density=True, color=_PALETTE[0], alpha=0.7, label=f"the {k} best answers ({len(answers):,})"
    )
    axes.axvline(threshold, color=_PALETTE[4], linewidth=2, label=f"suggested min_score: {threshold:.3f}")
    axes.set_xlabel("score")
    axes.set_ylabel("density")
    axes.legend(frameon=False)
    _titled(axes, collection.name, f"{len(queries):,} queries; 1 in 200 of other records scores above the line")
    _save(figure, target)
    return threshold


def plot_recall(curves: Mapping[str, Sequence[tuple[float, float]]], path: str | Path, *, title: str = "") -> None:
    """Draw recall against speed, a line for each engine or index; up and to the right is better.

    Args:
        curves: from a name to points (recall, queries a second).
        path: `.png`, `.svg` or `.pdf`.

    Raises:
        InvalidInput: there are no points, or one is not (recall in [0, 1], speed over 0).
        MissingExtra: matplotlib is not installed.
    """
    target = _target(path, (".png", ".svg", ".pdf"))
    for name, line in curves.items():
        for point in line:
            if len(point) != 2 or not 0 <= point[0] <= 1 or not point[1] > 0:
                raise InvalidInput(f"{name}: a point must be (recall, queries a second), got {point!r}")
    if not any(curves.values()):
        raise InvalidInput("there are no points to draw")
    figure, axes = _axes((8.0, 5.0))
    for number, (name, line) in enumerate(curves.items()):
        recall, speed = zip(*sorted(line), strict=True) if line else ((), ())
        marker, colour = "osD^vPX*"[number % 8], _PALETTE[number % len(_PALETTE)]
        axes.plot(recall, speed, marker=marker, color=colour, label=name, linewidth=2)
    axes.set_yscale("log")
    axes.set_xlabel("recall")
    axes.set_ylabel("queries a second")
    axes.grid(True, which="both", color="#EEEEEE")
    axes.legend(frameon=False)
    _titled(axes, title, "")
    _save(figure, target)


def _value(record: Record, color: str | Mapping[str, Any] | None) -> Any:
    if color is None:
        return None
    return record.metadata.get(color) if isinstance(color, str) else color.get(record.id)


def _coloured(values: list[Any]) -> Colouring:
    known = [value for value in values if value is not None]
    if not known:
        return Colouring([_PALETTE[0]] * len(values), [""] * len(values), [0] * len(values), [], [])
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in known) and len(set(known)) > 6:
        low, high = min(known), max(known)
        colours = [_OTHER if value is None else _between((value - low) / (high - low)) for value in values]
        labels = ["" if value is None else f"{value:g}" for value in values]
        return Colouring(colours, labels, [0] * len(values), [], [f"{low:g}", f"{high:g}", *_RAMP])
    names = [
        "(none)" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        for value in values
    ]
    common = [name for name, _ in Counter(name for name in names if name != "(none)").most_common(len(_PALETTE))]
    place = {name: number for number, name in enumerate(common)}
    groups = [place.get(name, len(common)) for name in names]
    colours = [*_PALETTE[: len(common)], _OTHER]
    legend = list(zip(common, colours, strict=False))
    if max(groups) == len(common):
        legend.append(("others", _OTHER))
    return Colouring([colours[group] for group in groups], names, groups, legend, [])


def _between(share: float) -> str:
    at = min(share * (len(_RAMP) - 1), len(_RAMP) - 1.000001)
    low, high = (tuple(int(_RAMP[int(at) + step][i : i + 2], 16) for i in (1, 3, 5)) for step in (0, 1))
    return "#" + "".join(f"{round(a + (b - a) * (at - int(at))):02X}" for a, b in zip(low, high, strict=True))


def _page(records: list[Record], placed: NDArray[np.float32], colouring: Colouring, title: str, subtitle: str) -> str:
    data = {
        "x": [round(float(x), 4) for x in placed[:, 0]],
        "y": [round(float(y), 4) for y in placed[:, 1]],
        "xs": [float(placed[:, 0].min()), float(placed[:, 0].max())],
        "ys": [float(placed[:, 1].min()), float(placed[:, 1].max())],
        "id": [str(record.metadata.get("title") or record.id) for record in records],
        "text": [(text if len(text := record.document or "") <= _TEXT else text[:_TEXT] + " …") for record in records],
        "colour": colouring.colours,
        "label": colouring.labels,
        "group": colouring.groups,
        "legend": colouring.legend,
        "ramp": colouring.ramp,
    }
    page = Template(resources.files("nearfield.plot").joinpath("page.html").read_text(encoding="utf-8"))
    inside = json.dumps(data).replace("<", "\\u003c")  # a text cannot end the script it stands in
    return page.substitute(title=html.escape(title), subtitle=html.escape(subtitle), data=inside)


def _sample(
    collection: Collection, where: Where | None, limit: int, random: np.random.Generator | None = None
) -> tuple[list[Record], int]:
    """At most `limit` records with their vectors, spread evenly over all, or at random; and how many there are."""
    total = collection.count(where)
    if random is None:
        wanted = {at * total // limit for at in range(limit)} if total > limit else set(range(total))
    else:
        wanted = set(random.choice(total, size=min(limit, total), replace=False).tolist())
    pages = collection.scan(where=where, include=["documents", "metadatas", "embeddings"], batch=_PAGE)
    numbered = enumerate(record for page in pages for record in page)
    records = [record for at, record in numbered if at in wanted]
    return records, total


def _target(path: str | Path, kinds: tuple[str, ...]) -> Path:
    target = Path(path)
    if target.suffix.lower() not in kinds:
        raise InvalidInput(f"{target}: its name must end in {', '.join(kinds)}")
    if target.suffix.lower() != ".html":
        require("matplotlib", extra="plot", purpose=f"A picture such as {target.name}")
    return target


def _axes(size: tuple[float, float]) -> tuple[Any, Any]:
    # Not pyplot, which keeps every figure, and asks which screen there is.
    figure = require("matplotlib.figure", extra="plot", purpose="A picture").Figure(figsize=size, dpi=150)
    axes = figure.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _titled(axes: Any, title: str, subtitle: str) -> None:
    """Text as it is: matplotlib would read what stands between two $ as mathematics."""
    axes.set_title(title, loc="left", fontsize=13, pad=22 if subtitle else 8, parse_math=False)
    axes.text(0, 1.015, subtitle, transform=axes.transAxes, color="#666666", fontsize=9, parse_math=False)


def _legend(figure: Any, axes: Any, colouring: Colouring) -> None:
    lines = require("matplotlib.lines", extra="plot", purpose="A picture")
    if colouring.ramp:
        colors = require("matplotlib.colors", extra="plot", purpose="A picture")
        cm = require("matplotlib.cm", extra="plot", purpose="A picture")
        low, high, *ramp = colouring.ramp
        scale = colors.Normalize(float(low), float(high))
        shades = colors.LinearSegmentedColormap.from_list("ramp", ramp)
        figure.colorbar(cm.ScalarMappable(scale, shades), ax=axes, shrink=0.6)
    elif colouring.legend:
        handles = [
            lines.Line2D(
                [], [], marker="o", linestyle="", color=colour, label=name if len(name) < 40 else name[:39] + "…"
            )
            for name, colour in colouring.legend
        ]
        made = axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=9)
        for text in made.get_texts():
            text.set_parse_math(False)


def _save(figure: Any, target: Path) -> None:
    with _written(target) as temporary:
        figure.savefig(temporary, format=target.suffix[1:].lower(), bbox_inches="tight")


@contextlib.contextmanager
def _written(target: Path) -> Iterator[Path]:
    """A file beside `target` that takes its place when it is complete."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        os.close(handle)
    except OSError as error:
        raise StorageError(f"{target}: cannot be written: {error.strerror}") from error
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(target)
    except OSError as error:
        raise StorageError(f"{target}: cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)
