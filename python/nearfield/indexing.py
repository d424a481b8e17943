"""Files into a collection, so that the collection holds what the files say now; and from a hit back to its file."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nearfield import inputs
from nearfield.chunk import Passage, Tokens, passages
from nearfield.errors import InvalidInput, NearfieldError, NotFound
from nearfield.load import find_files, id_of, path_of, read_file
from nearfield.load.document import Document, Source, is_address

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nearfield.collection import Collection
    from nearfield.embed import Embedder
    from nearfield.types import Hit, Record

BATCH = 64  # passages embedded and stored at a time: how often progress is told, and what Ctrl-C can lose
SIZE = 800  # characters of a passage, unless the embedder can count tokens
TOKENS = 256
_PAGE = 20_000
_FORMAT = 1  # of ids and metadata: with another number, every file counts as changed

Progress = Callable[[str, int, int], None]
Item = TypeVar("Item")


@dataclass
class Summary:
    """What `index_folder` did.

    Attributes:
        files: readable files found; of these `new`, `changed`, `unchanged` (not read: their bytes are the same),
            `empty` (without text) and `problems`, a sentence for each that could not be read.
        gone: files whose passages were removed with them.
        others: files of kinds that cannot be read.
        passages: passages of the files found, in the collection now: `embedded` anew, the others kept as they were.
        removed: passages that were removed.
    """

    files: int = 0
    new: int = 0
    changed: int = 0
    unchanged: int = 0
    empty: int = 0
    gone: int = 0
    passages: int = 0
    embedded: int = 0
    removed: int = 0
    problems: list[str] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Ready for `json.dumps`."""
        return asdict(self) | {"others": [path.as_posix() for path in self.others]}


@dataclass(frozen=True, slots=True)
class _Splitter:
    """How documents become passages: the same for all files of a run, and part of every file's hash."""

    by: str
    size: int
    overlap: int
    tokens: Tokens | None
    counted: str  # in what `size` is counted

    def __call__(self, document: Document) -> list[Passage]:
        natural = {"markdown": "markdown", "code": "code"}.get(
            document.layout, "sentences" if document.marks else "paragraphs"
        )
        by = natural if self.by == "auto" else self.by
        return passages(document.text, by=by, size=self.size, overlap=self.overlap, tokens=self.tokens)

    def key(self) -> bytes:
        return f"{_FORMAT} {self.by} {self.size} {self.overlap} {self.counted}".encode()


@dataclass
class _Batch:
    """Passages on their way to the disk: id, text, metadata, and the vector if the collection has it already."""

    new: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    moved: list[tuple[str, str, dict[str, Any], NDArray[Any]]] = field(default_factory=list)
    same: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.new) + len(self.moved) + len(self.same) + len(self.stale)


def index_folder(
    collection: Collection,
    paths: str | Path | Sequence[str | Path],
    *,
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    by: str = "auto",
    size: int | None = None,
    overlap: int = 0,
    encoding: str | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Make `collection` hold the passages of all readable files under `paths`, and no others of these files.

    A second run reads only files whose content has changed, embeds only passages that are new, and removes what is
    gone: passages that a file no longer has, files deleted from a folder among `paths` or left out by its ignore files.
    A file that cannot be read is a problem in the summary, and what the collection has of it stays. Stopped at any
    moment, it has kept what was stored, and the next run goes on from there.

    A passage's id is `<file>#<number>`; its metadata is its document's (`source`, `title`, `modified`, `page` …) with
    `chunk` (its number, from 1 on) of `chunks`, `start` and `end` (offsets in the text as `read_file` gives it),
    `section` (the headings above it in Markdown) and `hash` (of the file's content).

    Args:
        paths: a folder, a file, a pattern, an address (https://…), or several of them; see `nearfield.load.find_files`.
        include, exclude: patterns as in a .gitignore, of files in folders.
        by: how to divide, see `nearfield.chunk.passages`; "auto": by what the file is written in.
        size, overlap: of passages, in tokens of the collection's embedder, or in characters if it cannot count them.
            None: 256 tokens or 800 characters, or as much as the model reads. Nothing is cut off by the model's limit.
        encoding: of text files, if it is not UTF-8.
        progress: called with what is being done, how many files are done, and how many there are.

    Raises:
        NotFound: one of `paths` does not exist.
        InvalidInput: the collection takes vectors only, or `by`, `size` or `overlap` is wrong; or more than the
            model reads.
        StorageError: a folder cannot be listed, or the database cannot be written.

    Example:
        >>> done = nf.index_folder(docs, "examples/corpus")
        >>> done.new, done.problems
        (11, [])
    """
    splitter = _splitter(collection, by, size, overlap)
    paths = [paths] if isinstance(paths, str | Path) else list(paths)
    tell = progress or (lambda _what, _done, _total: None)
    found = find_files(paths, include=include, exclude=exclude)
    there, ids_of = _inventory(collection)
    summary, batch = Summary(files=len(found.files), others=found.others), _Batch()
    for number, file in enumerate(found.files):
        tell("Indexing", number, len(found.files))
        owner = id_of(file)
        try:
            digest = _digest(file, splitter, encoding)
            if digest is not None and _complete(there.get(owner), digest):
                summary.unchanged += 1
                summary.passages += len(ids_of[owner])
                continue
            entries = _entries(file, encoding, splitter, digest)
            inputs.metadatas([metadata for _, _, metadata in entries])
        except NearfieldError as error:
            summary.problems.append(str(error) if str(file) in str(error) else f"{file}: {error}")
            continue
        old = ids_of.get(owner, [])
        summary.new += not old and bool(entries)
        summary.changed += bool(old)
        summary.empty += not entries
        summary.passages += len(entries)
        _compare(collection, entries, old, batch)
        if len(batch) >= BATCH:
            _store(collection, batch, summary)
    tell("Indexing", len(found.files), len(found.files))
    _store(collection, batch, summary)
    narrowed = include is not None or exclude is not None
    for owner in _gone(found.files, paths, ids_of, narrowed):
        summary.gone += 1
        summary.removed += _delete(collection, ids_of[owner])
    return summary


def neighbours(collection: Collection, hit: Hit | Record, before: int = 1, after: int = 1) -> list[Record]:
    """The passages around a hit in its document, in order, the hit's own among them.

    Args:
        hit: of a collection that `index_folder` filled.
        before, after: how many passages at most.

    Raises:
        InvalidInput: the record was not made by `index_folder`, or a number is negative.

    Example:
        >>> docs = nf.open().collection("docs")
        >>> _ = nf.index_folder(docs, "examples/corpus/animals.md")
        >>> hit = docs.search("a feline resting on a rug", k=1)[0]
        >>> text = "\\n".join(record.document for record in nf.neighbours(docs, hit))
    """
    number, count = hit.metadata.get("chunk"), hit.metadata.get("chunks")
    base, mark, last = hit.id.rpartition("#")
    if not isinstance(number, int) or not isinstance(count, int) or not mark or last != str(number):
        raise InvalidInput(f"record {hit.id!r} does not say which part of a document it is: fill with index_folder()")
    first = max(1, number - inputs.not_negative(before, "before"))
    ids = [f"{base}#{n}" for n in range(first, min(count, number + inputs.not_negative(after, "after")) + 1)]
    try:
        return collection.get(ids)
    except NotFound:  # some were removed since: what is left
        return [record for id in ids for record in _found(collection, id)]


def in_source(hit: Hit | Record, encoding: str | None = None) -> tuple[Document, int, int]:
    """The document that a hit comes from, read again, and where in its text the hit begins and ends.

    Raises:
        InvalidInput: the record was not made by `index_folder`, or the file has changed since, so that the offsets no
            longer hold: index it again.
        NotFound, StorageError: the file is gone, or cannot be read.
    """
    start, end = hit.metadata.get("start"), hit.metadata.get("end")
    base, mark, _ = hit.id.rpartition("#")
    if not isinstance(start, int) or not isinstance(end, int) or not mark:
        raise InvalidInput(f"record {hit.id!r} does not say where it stands: fill the collection with index_folder()")
    owner = base.split("#", 1)[0]
    for document in read_file(owner if is_address(owner) else path_of(owner), encoding=encoding):
        if document.id == base and document.text[start:end] == hit.document:
            return document, start, end
    raise InvalidInput(f"{owner} no longer has this passage where it was; index it again")


def _splitter(collection: Collection, by: str, size: int | None, overlap: int) -> _Splitter:
    embedder = collection.embedder
    if embedder is None:
        raise InvalidInput(f"collection {collection.name!r} was opened without an embedder, so it takes vectors only")
    if collection.count() and collection.embedder_identity is None:
        raise InvalidInput(f"collection {collection.name!r} holds vectors that were not made from text; take another")
    tokens, limit, counted = _counting(embedder)
    if size is None:
        size = (TOKENS if counted == "tokens" else SIZE) if limit is None else min(limit, TOKENS if tokens else SIZE)
    elif limit is not None and size > limit:
        raise InvalidInput(f"size is {size} {counted}, but the embedder {embedder.identity!r} reads only {limit}")
    splitter = _Splitter(by, size, overlap, tokens, counted)
    passages("a", by="paragraphs" if by == "auto" else by, size=size, overlap=overlap)  # told before any work
    return splitter


def _counting(embedder: Embedder) -> tuple[Tokens | None, int | None, str]:
    """A way to count tokens, or bytes, or (None) characters; how many are read to the end; and what is counted."""
    spans, limit = getattr(embedder, "token_spans", None), embedder.max_tokens
    if spans is not None:
        return spans, getattr(embedder, "text_tokens", limit), "tokens"
    if limit is None or limit >= 4 * SIZE + 16:
        return None, None, "characters"
    return _bytes, max(1, limit - 16), "bytes"  # no tokenizer makes more tokens than bytes, and a prompt and marks


def _bytes(text: str) -> list[tuple[int, int]]:
    return [(at, at + 1) for at, letter in enumerate(text) for _ in letter.encode("utf-8", "replace")]


def _digest(file: Source, splitter: _Splitter, encoding: str | None) -> str | None:
    """A hash of a file's bytes, its name and how it is read; None for an address, which is asked each time."""
    if is_address(file):
        return None
    content = hashlib.blake2b(splitter.key() + repr(encoding).encode(), digest_size=8)
    try:
        with Path(file).open("rb") as opened:
            while piece := opened.read(1 << 20):
                content.update(piece)
    except OSError:
        return None  # `read_file` says what is wrong
    return content.hexdigest()


def _complete(hashes: Counter[str] | None, digest: str) -> bool:
    """Whether all passages of a file are there, and no others. A hash is `<content>-<passages of the file>`."""
    if hashes is None or len(hashes) != 1:
        return False
    [(value, count)] = hashes.items()
    return value == f"{digest}-{count}"


def _entries(
    file: Source, encoding: str | None, splitter: _Splitter, digest: str | None
) -> list[tuple[str, str, dict[str, Any]]]:
    documents = [(document, splitter(document)) for document in read_file(file, encoding=encoding)]
    total = sum(len(pieces) for _, pieces in documents)
    if digest is None:
        whole = "\0".join(document.text for document, _ in documents)
        digest = hashlib.blake2b(splitter.key() + whole.encode("utf-8", "replace"), digest_size=8).hexdigest()
    entries = []
    for document, pieces in documents:
        for number, passage in enumerate(pieces, 1):
            own: dict[str, Any] = {"chunk": number, "chunks": len(pieces), "start": passage.start, "end": passage.end}
            own |= {"section": passage.heading} if passage.heading else {}
            for offset, facts in document.marks:
                if offset <= passage.start:
                    own |= facts
                elif offset < passage.end and "page" in facts:
                    own["last_page"] = facts["page"]
            metadata = {**document.metadata, **own, "hash": f"{digest}-{total}"}
            entries.append((f"{document.id}#{number}", passage.text, metadata))
    return entries


def _inventory(collection: Collection) -> tuple[dict[str, Counter[str]], dict[str, list[str]]]:
    """For each file in the collection, how many passages have which hash, and their ids."""
    hashes: dict[str, Counter[str]] = {}
    ids: dict[str, list[str]] = {}
    for offset in range(0, collection.count(), _PAGE):
        for record in collection.get(limit=_PAGE, offset=offset, include=["metadatas"]):
            owner = record.id.split("#", 1)[0]
            hashes.setdefault(owner, Counter())[str(record.metadata.get("hash"))] += 1
            ids.setdefault(owner, []).append(record.id)
    return hashes, ids


def _compare(
    collection: Collection, entries: Sequence[tuple[str, str, dict[str, Any]]], old: list[str], batch: _Batch
) -> None:
    """Divide a file's passages by what the collection has of them."""
    if not old:
        batch.new += entries
        return
    there = {record.id: record for record in _existing(collection, old)}
    wanted = {id for id, _, _ in entries}
    batch.stale += [id for id in old if id not in wanted]
    vectors = {record.document: record.embedding for record in there.values()}
    for id, text, metadata in entries:
        if id in there and there[id].document == text:
            batch.same.append((id, metadata))
        elif (vector := vectors.get(text)) is not None:
            batch.moved.append((id, text, metadata, vector))
        else:
            batch.new.append((id, text, metadata))


def _store(collection: Collection, batch: _Batch, summary: Summary) -> None:
    if batch.moved:  # first: their vectors are those of ids that new passages may take
        ids, texts, metadatas, vectors = zip(*batch.moved, strict=True)
        collection.upsert(texts, ids=ids, metadatas=metadatas, embeddings=vectors)
    if batch.same:
        ids, metadatas = zip(*batch.same, strict=True)
        collection.update(ids, metadatas=metadatas)
    for piece in _slices(batch.new, BATCH):
        ids, texts, metadatas = zip(*piece, strict=True)
        collection.upsert(texts, ids=ids, metadatas=metadatas)
        summary.embedded += len(ids)
    summary.removed += _delete(collection, batch.stale)
    batch.new, batch.moved, batch.same, batch.stale = [], [], [], []


def _gone(files: list[Source], paths: Sequence[str | Path], owners: Iterable[str], narrowed: bool) -> list[str]:
    """Files in the collection that were under a folder just searched and are there no more."""
    found = {id_of(file) for file in files}
    folders = tuple(id_of(path).rstrip("/") + "/" for path in paths if not is_address(path) and Path(path).is_dir())
    return [
        owner
        for owner in owners
        if owner not in found and owner.startswith(folders) and not (narrowed and path_of(owner).exists())
    ]


def _delete(collection: Collection, ids: Sequence[str]) -> int:
    return sum(collection.delete(piece) for piece in _slices(ids, _PAGE))


def _existing(collection: Collection, ids: list[str]) -> Iterator[Record]:
    for piece in _slices(ids, _PAGE):
        yield from collection.get(piece, include=["documents", "embeddings"])


def _found(collection: Collection, id: str) -> list[Record]:
    try:
        return collection.get(id)
    except NotFound:
        return []


def _slices(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))
