"""Filter, update, delete and count by metadata. Run: python examples/metadata_filters.py"""

from __future__ import annotations

import datetime

import nearfield as nf


def main() -> None:
    with nf.open() as db:
        films = db.collection("films")
        films.add(
            ids=["rain", "moon", "train"],
            documents=[
                "Two lovers dance in the rain.",
                "A crew is stranded on the moon.",
                "A murder on a night train.",
            ],
            metadatas=[
                {
                    "released": datetime.date(1952, 4, 11),
                    "genres": ["musical", "romance"],
                    "studio": {"city": "Culver"},
                },
                {"released": datetime.date(2009, 7, 17), "genres": ["drama"], "studio": {"city": "London"}},
                {"released": datetime.date(1974, 11, 24), "genres": ["crime", "drama"], "studio": {"city": "London"}},
            ],
        )
        old = nf.F("released") < datetime.date(2000, 1, 1)
        print("old dramas:", films.search("a crime", where=old & nf.F("genres").contains("drama")).ids)
        print("in London:", films.count({"studio.city": "London"}))
        print("genres:", dict(films.facet("genres")))
        print("newest first:", [film.id for film in films.get(order_by="-released")])

        films.update("moon", metadatas={"released": datetime.date(2009, 7, 17), "genres": ["drama"], "seen": True})
        print("seen:", [film.id for film in films.get(where={"seen": True})])
        print("deleted:", films.delete(where=old))
        print("left:", [film.id for film in films.get()])


if __name__ == "__main__":
    main()
