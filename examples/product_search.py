"""A shop: filters, one offer a product, "nothing found" below a threshold. Run: python examples/product_search.py"""

from __future__ import annotations

from typing import Any

import nearfield as nf
from nearfield.evaluate import evaluate_pairs

OFFERS: list[tuple[str, dict[str, Any]]] = [
    ("Rain jacket, waterproof, with hood", {"product": "jacket", "price": 89, "stock": 4}),
    ("Rain jacket, waterproof, with hood, last year's colour", {"product": "jacket", "price": 59, "stock": 1}),
    ("Down jacket for very cold days", {"product": "down", "price": 189, "stock": 2}),
    ("Hiking boots with a firm sole", {"product": "boots", "price": 139, "stock": 0}),
    ("Running shoes, light and soft", {"product": "runners", "price": 99, "stock": 7}),
    ("Two-person tent, stands in three minutes", {"product": "tent", "price": 249, "stock": 3}),
    ("Sleeping bag down to minus ten degrees", {"product": "bag", "price": 129, "stock": 5}),
    ("Gas stove with two cartridges", {"product": "stove", "price": 45, "stock": 9}),
]
PAIRS = [  # what people typed, what they meant, and whether they were happy with it: decides the threshold
    ("something against the rain", "Rain jacket, waterproof, with hood", True),
    ("warm coat", "Down jacket for very cold days", True),
    ("cooker for camping", "Gas stove with two cartridges", True),
    ("birthday card", "Two-person tent, stands in three minutes", False),
    ("guitar strings", "Running shoes, light and soft", False),
    ("laptop charger", "Sleeping bag down to minus ten degrees", False),
]


def main() -> None:
    threshold = evaluate_pairs("default", PAIRS).threshold
    print(f"similar from a cosine of {threshold:.2f} on")
    with nf.open() as db:
        shop = db.collection("shop")
        shop.add([text for text, _ in OFFERS], metadatas=[fields for _, fields in OFFERS])
        for query in (
            "clothes for a rainy day",
            "shoes for jogging",
            "somewhere to sleep in the mountains",
            "violin lessons",
        ):
            hits = shop.search(query, k=2, where={"stock": {"$gt": 0}}, group_by="product", min_score=threshold)
            found = [f"{hit.document} ({hit.metadata['price']})" for hit in hits]
            print(f"{query}: {'; '.join(found) or 'nothing found'}")


if __name__ == "__main__":
    main()
