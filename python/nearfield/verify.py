"""Verification: every byte that counts is read and compared with its checksum, and every count with what it counts.

Repair makes anew what is derived and what can be counted again. Records and vectors that are damaged come back from a
backup only, unless their loss is accepted.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from nearfield import _native, compaction, schema, wal
from nearfield.catalog import HIDDEN, State, generation_checksum
from nearfield.errors import Corrupt, Locked, NearfieldError
from nearfield.schema import CATALOG, translated
from nearfield.segments import index_name
from nearfield.store import Store
from nearfield.transaction import Transaction, verified
from nearfield.types import METRICS, Finding


def verify(store: Store) -> list[Finding]:
    """Everything that is damaged; an empty list when nothing is."""
    store.forget_checked()
    with store.reading() as transaction:
        return list(_findings(store, transaction))


def repair(store: Store, *, discard: bool = False) -> list[Finding]:
    """Mend what can be mended; returns what `verify` then still finds.

    Args:
        discard: remove records that are damaged, or whose vector is: the rest can be searched again. Remove what was
            kept of a damaged WAL.

    Raises:
        ReadOnly: the folder cannot be written. Locked: another process is maintaining the database.
    """
    store.check_writable()
    with store.maintaining(schema.TIMEOUT) as held:
        if not held and store.path is not None:
            raise Locked(f"{store.path}: another process is compacting or repairing it; try again when it has finished")
        with translated(store.path, "repairing"), store.writing() as transaction:
            transaction.reindex()
        with store.writing() as transaction:
            for collection in transaction.ids():
                _recount(transaction, collection)
        findings = verify(store)
        with store.writing() as transaction:
            for finding in findings:
                if finding.repairable and finding.file.suffix == ".nfi":
                    transaction.forget_file(finding.file)
        if discard:
            _discard(store, findings)
            if store.path is not None:
                (store.path / wal.DAMAGED).unlink(missing_ok=True)
        compaction.sweep(store)
        compaction.give_back(store)
        return verify(store)


def _findings(store: Store, transaction: Transaction) -> Iterator[Finding]:
    catalog = (store.path or Path()) / CATALOG
    if store.path is not None:
        yield from (Finding(file, problem, False) for file, problem in wal.problems(store.path))
    try:
        for problem in transaction.problems():
            # What is wrong with an index of SQLite's is mended from its table; what is wrong with a table is not.
            indexed = "index" in problem
            yield Finding(catalog, f"SQLite says: {problem}", indexed)
        collections = transaction.ids()
    except sqlite3.DatabaseError as error:
        yield Finding(catalog, f"SQLite says: {error}; restore it from a backup", False)
        return
    if transaction.schema() not in (schema.SCHEMA, schema.SCHEMA + schema.LANGUAGES):
        yield Finding(catalog, "its tables are not those of the format; restore it from a backup", False)
    for collection in collections:
        state, problem = transaction.entry(collection)
        name = state.name.partition(HIDDEN)[0]
        if problem:  # the facts cannot be told from their checksum, the counts can be counted again
            known = transaction.counted(state)
            yield Finding(catalog, problem, known._replace(crc32=0).checksum() == state.crc32, name)
        if state.origin is None and HIDDEN in state.name:
            continue  # no collection: what is left of one, to be removed
        try:
            yield from _entry(catalog, transaction, state)
            yield from _records(catalog, transaction, state)
            yield from _vectors(catalog, transaction, state)
            yield from _generations(transaction, state)
        except (NearfieldError, sqlite3.DatabaseError, TypeError, ValueError) as error:
            yield Finding(catalog, f"{error}", False, name)


def _entry(catalog: Path, transaction: Transaction, state: State) -> Iterator[Finding]:
    if state.metric not in METRICS:
        yield Finding(catalog, f"the metric {state.metric!r} is none", False, state.name)
    alive, dead = transaction.rows(state.id), transaction.listed_dead(state)
    counted = transaction.counted(state)
    for what in ("next_row", "live", "dead_sum"):
        found, wanted = getattr(state, what), getattr(counted, what)
        if found != wanted:
            yield Finding(catalog, f"{what} is {found}, and should be {wanted}", True, state.name)
    if state.seq < counted.seq:
        yield Finding(catalog, f"seq is {state.seq}, and there are changes up to {counted.seq}", True, state.name)
    missing = np.setdiff1d(np.arange(counted.next_row), np.concatenate([alive, dead]))
    both = np.intersect1d(alive, dead)
    if len(missing) or len(both) or len(np.unique(dead)) < len(dead) or (len(dead) and dead.max() >= counted.next_row):
        yield Finding(catalog, "the list of dead rows does not fit the records", True, state.name)


def _records(catalog: Path, transaction: Transaction, state: State) -> Iterator[Finding]:
    damaged: dict[int, str] = {}
    for line in transaction.lines(state):
        try:
            verified(line)
        except Corrupt:
            damaged[line[0]] = str(line[1])
    if damaged:
        what = f"{_named(list(damaged.values()))} damaged: the checksum is wrong"
        yield Finding(catalog, what, False, state.name, tuple(damaged.values()), tuple(damaged))


def _vectors(catalog: Path, transaction: Transaction, state: State) -> Iterator[Finding]:
    sealed = 0
    for segment in transaction.segments(state):
        sealed = segment.first_row + segment.rows
        try:
            segment.checked(state.dimension or 0, set())
        except Corrupt as error:
            ids = _ids(transaction, state, range(segment.first_row, sealed))
            yield Finding(segment.path, str(error), False, state.name, tuple(ids.values()), tuple(ids))
    if rows := transaction.damaged_unsealed(state, sealed):
        ids = _ids(transaction, state, rows)
        what = f"vectors are damaged or missing, of {len(ids)} records and {len(rows) - len(ids)} dead rows"
        yield Finding(catalog, what, False, state.name, tuple(ids.values()), tuple(rows))


def _ids(transaction: Transaction, state: State, rows: Sequence[int]) -> dict[int, str]:
    wanted = set(rows)
    return {row: str(id) for row, id, *_ in transaction.lines(state) if row in wanted}


def _generations(transaction: Transaction, state: State) -> Iterator[Finding]:
    for kind, number, next_row, seq, crc in transaction.generations(state):
        file = transaction.index_folder(state.name) / index_name(str(kind), int(number))
        if crc != generation_checksum(state.id, kind, number, next_row, seq):
            yield Finding(file, "its entry in the catalog is damaged; it is derived", True, state.name)
            continue
        try:
            _native.check_file(file)
        except (NearfieldError, OSError) as error:
            yield Finding(file, f"{error}; it is derived", True, state.name)


def _recount(transaction: Transaction, collection: int) -> None:
    """Write down what follows from records and vectors: counts, and the list of dead rows."""
    state, _ = transaction.entry(collection)
    if state.origin is None:
        return
    counted = transaction.counted(state)
    alive, dead = transaction.rows(collection), transaction.listed_dead(state)
    wanted = np.setdiff1d(np.arange(counted.next_row), alive)
    if not np.array_equal(np.sort(dead), wanted):
        transaction.set_dead(counted, wanted.tolist())
    elif counted != state:
        transaction.set_counts(counted)


def _discard(store: Store, findings: list[Finding]) -> None:
    """Remove the damaged records, and rewrite their collections without them."""
    for finding in findings:
        if finding.repairable or not finding.rows or finding.collection is None:
            continue
        with store.writing() as transaction:
            state = transaction.find(finding.collection)
            if state is not None:
                alive = transaction.rows(state.id)
                transaction.bury(state, np.intersect1d(alive, np.asarray(finding.rows)).tolist())
                transaction.reindex()  # of a damaged id SQLite has another one in its index
        if state is not None:
            with suppress(NearfieldError):  # verify says what is still in the way
                compaction.compact(store, state.origin, state.name)


def _named(ids: list[str]) -> str:
    more = f" and {len(ids) - 3} more" if len(ids) > 3 else ""
    return f"the record{'s' * (len(ids) > 1)} {', '.join(map(repr, ids[:3]))}{more} {'are' if len(ids) > 1 else 'is'}"
