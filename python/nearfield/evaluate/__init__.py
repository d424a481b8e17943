"""How good are the answers? Judged queries, metrics with confidence intervals, and where a loss comes from.

`evaluate` measures searches of a collection side by side, `compare_embedders` measures models, `evaluate_pairs` how
well one tells similar texts from different ones; `split_loss` says what of a loss is the model's, the quantiser's and
the index's; `load_judged` reads a BEIR folder.
"""

from nearfield.evaluate.judged import Judged, load_judged
from nearfield.evaluate.loss import Loss, split_loss
from nearfield.evaluate.metrics import average_precision, ndcg, recall, reciprocal_rank
from nearfield.evaluate.pairs import PairReport, evaluate_pairs
from nearfield.evaluate.retrieval import Evaluation, Score, compare_embedders, evaluate

__all__ = [
    "Evaluation",
    "Judged",
    "Loss",
    "PairReport",
    "Score",
    "average_precision",
    "compare_embedders",
    "evaluate",
    "evaluate_pairs",
    "load_judged",
    "ndcg",
    "recall",
    "reciprocal_rank",
    "split_loss",
]
