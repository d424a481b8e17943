"""What is added stays: close, open again, change, delete. Run: python examples/persistence.py"""

from __future__ import annotations

import tempfile
from pathlib import Path

import nearfield as nf


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "notes.nf"

        with nf.open(path) as db:
            db.collection("notes").add(
                ids=["tap", "soup", "moon"],
                documents=[
                    "The bathroom tap drips; buy a washer.",
                    "Leek soup: sweat the leeks slowly.",
                    "Full moon on the 14th.",
                ],
                metadatas=[{"done": False}, {"done": True}, {"done": False}],
            )  # when this returns it is on the disk

        with nf.open(path) as db:  # a later day, another process
            notes = db.collection("notes")
            print("kept:", notes.count(), "notes")
            print("plumbing:", notes.search("plumbing to repair", k=1)[0].id)

            notes.upsert(ids="tap", documents="The tap is mended.", metadatas={"done": True})
            print("done:", sorted(record.id for record in notes.get(where={"done": True})))
            print("deleted:", notes.delete(where={"done": True}), "left:", [record.id for record in notes.peek()])

            try:
                notes.add(ids="moon", documents="New moon.")
            except nf.errors.AlreadyExists as error:
                print("refused:", error)


if __name__ == "__main__":
    main()
