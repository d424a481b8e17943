"""Words, meaning, and both: what each finds, and what it misses. Run: python examples/keyword_and_semantic.py"""

from __future__ import annotations

import nearfield as nf

MANUAL = {
    "e17": "Error E17: the pump is blocked. Clean the filter behind the flap at the bottom.",
    "e21": "Error E21: the door is not closed. Press it until the lock clicks.",
    "seal": "Part 8030-417 is the rubber seal of the door.",
    "pump": "Part 8030-471 is the drain pump.",
    "belt": "Part 8034-017 is the drive belt.",
    "noise": "A rumbling drum points to worn bearings; ask the service to replace them.",
    "smell": "Bad odour goes away when you run an empty cycle at 90 degrees once a month.",
    "limp": "Clothes come out too wet when the spin speed is set too low.",
}
QUESTIONS = {
    "part 8030-417": "a number: words find it",
    "my laundry is still soaked": "no word in common: meaning finds it",
    "E21 shows although I shut it": "a code and a description: both help",
}


def main() -> None:
    with nf.open() as db:
        docs = db.collection("manual")
        docs.add(list(MANUAL.values()), ids=list(MANUAL))
        for question, why in QUESTIONS.items():
            print(f"\n{question}   ({why})")
            for mode in ("lexical", "dense", "hybrid"):
                hits = docs.search(question, k=1, mode=mode)
                print(f"  {mode:<8} {hits[0].id + '  ' + hits[0].marked() if hits else '(nothing)'}")

        hit = docs.search("E21 shows although I shut it", k=1, mode="hybrid")[0]
        legs = ", ".join(f"{leg} {score:.3f}" for leg, score in hit.scores.items())
        print(f"\nwhat the legs said of {hit.id}: {legs}")


if __name__ == "__main__":
    main()
