"""The danger: an example that no longer runs, or that says something else than it used to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SAYS = {
    "asymmetric_search.py": ["blue? sky (0.", "rise? bread (0.", "come and go? tides (0.", "asked and told: cosine 0."],
    "image_search.py": ["a red fruit: tomato.bmp", "green grass: meadow.bmp", "above the water: sea.bmp"],
    "rag_with_citations.py": [
        "Bats find moths in total darkness",
        "  [1] Animals at home and in the wild, characters 1495 to 1670",
        "no language model was given",
        "I do not know.\n  (no passage scores at least 0.30",
    ],
    "semantic_search.py": ["107 passages", "Animals at home", "The telephone: Alexander", "1608  The telescope"],
    "vectors_only.py": ["nearest: [42,", "exact: True", "9999 vectors after a removal; 42 is gone: True"],
    "keyword_and_semantic.py": [
        "lexical  seal  **Part** **8030**-**417**",
        "dense    belt",
        "lexical  (nothing)",
        "hybrid   limp",
        "lexical  e21",
    ],
    "vector_arithmetic.py": ["king - man + woman = queen", "Paris - France + Italy = Rome", "by hand: queen"],
    "recommendations.py": [
        "like Orbit: Red Dust, Signal",
        "like Orbit, not seen: Red Dust",
        "one of each genre: Orbit, Kitchen Wars",
    ],
    "comparing_models.py": ["MiniLM is better", "no chance", "lexical", "hybrid"],
    "product_search.py": [
        "rainy day: Rain jacket",
        "jogging: Running shoes, light and soft (99)",
        "violin lessons: nothing found",
    ],
    "persistence.py": [
        "kept: 3 notes",
        "plumbing: tap",
        "done: ['soup', 'tap']",
        "left: ['moon']",
        "refused: collection 'notes'",
    ],
    "cosine_by_hand.py": ["a vector has 384 numbers", "by hand:      [('The cat sat on the mat.'", "the same"],
    "metadata_filters.py": [
        "old dramas: ['train']",
        "in London: 2",
        "newest first: ['moon', 'train', 'rain']",
        "seen: ['moon']",
        "deleted: 2",
        "left: ['moon']",
    ],
    "batch_encoding.py": ["vectors: (40, 384) float32", "alone or in a batch, the same: True", "nearest: {'dog'}"],
    "topic_clustering.py": ["grouped: True", "twice in it: 0"],
}


def test_every_example_is_run_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SAYS)


@pytest.mark.parametrize("name", SAYS)
def test_example(name: str, tmp_path: Path) -> None:
    assert len((EXAMPLES / name).read_text().splitlines()) < 60
    run = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / name], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    for text in SAYS[name]:
        assert text in run.stdout
    assert not list(tmp_path.iterdir()), "an example leaves nothing behind"
