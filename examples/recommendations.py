"""Recommendations from what someone liked and disliked. Run: python examples/recommendations.py"""

from __future__ import annotations

import nearfield as nf

FILMS = {
    "Deep Blue": ("Divers film whales and coral reefs in all oceans.", "nature"),
    "The Last Glacier": ("Researchers watch the ice of the Alps melt, year after year.", "nature"),
    "Orbit": ("An astronaut alone in a damaged station tries to get back to Earth.", "space"),
    "Red Dust": ("A crew stranded on Mars grows food and waits for rescue.", "space"),
    "Signal": ("A radio astronomer receives a message from another star.", "space"),
    "The Heist on Canal Street": ("Five thieves plan to empty a bank over one weekend.", "crime"),
    "Cold Case": ("A retired detective reopens an unsolved murder.", "crime"),
    "Two Weddings": ("A baker and a florist fall in love while they argue.", "romance"),
    "Letters to Vera": ("Decades later, a woman finds the love letters she never got.", "romance"),
    "Kitchen Wars": ("Rival cooks compete for one restaurant.", "comedy"),
}


def main() -> None:
    with nf.open() as db:
        films = db.collection("films")
        films.add(
            [plot for plot, _ in FILMS.values()],
            ids=list(FILMS),
            metadatas=[{"genre": genre, "seen": title == "Signal"} for title, (_, genre) in FILMS.items()],
        )
        show("like Orbit", films.similar("Orbit", k=3))
        show("like Orbit, not seen", films.similar("Orbit", k=3, where={"seen": False}))
        show("like Orbit and Deep Blue", films.similar(["Orbit", "Deep Blue"], k=3))
        show("like Cold Case, unlike Letters to Vera", films.similar("Cold Case", k=3, negative="Letters to Vera"))
        show("one of each genre", films.similar("Red Dust", k=4, group_by="genre"))
        show("no two alike", films.similar("Red Dust", k=4, diversity=0.6))


def show(what: str, hits: nf.Hits) -> None:
    print(f"{what}: {', '.join(hits.ids)}")


if __name__ == "__main__":
    main()
