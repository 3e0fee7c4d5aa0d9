"""From what a medium gathered out of some files to items of a listing; the contents of files, read when asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import PurePosixPath

import numpy as np

from fromnoise.codec import Gathered, Header
from fromnoise.data.columns import ROLES, profile
from fromnoise.data.listing import Items, Listing
from fromnoise.data.splits import folder_roles, split_of
from fromnoise.data.stack import Stack
from fromnoise.data.texts import Texts
from fromnoise.data.tree import Skipped, Tree, read, suffix
from fromnoise.errors import Unreadable


class Contents(Mapping[str, bytes]):
    """Name -> bytes of files, by their places in a tree; read at every access, which may raise Unreadable."""

    def __init__(self, tree: Tree, places: Mapping[str, int]) -> None:
        self._tree, self._places = tree, places

    def __getitem__(self, name: str) -> bytes:
        return read(self._tree, self._tree.entries[self._places[name]])

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def stack_of(source: str, gathered: Gathered) -> Stack:
    return Stack(
        pixels=gathered.raws,
        name=source,
        names=gathered.names,
        files=gathered.files if gathered.nameless else (),
        maps=gathered.maps,
    )


def items_of(gathered: Gathered) -> Items:
    """Gathered examples as the rows of stack 0; unless the medium parts them, a file that is called train, valid or
    test says the split."""
    n, place = len(gathered.raws), dict[Header, int]()
    said = {file: split_of(PurePosixPath(file).stem) for file in set(gathered.files)}
    split = gathered.split or [said[file] for file in gathered.files]
    return Items(
        header=np.array([place.setdefault(header, len(place)) for header in gathered.headers], dtype=np.int32),
        headers=tuple(place),
        digest=gathered.digests,
        split=np.array(split, dtype=np.int8),
        stack=np.zeros(n, dtype=np.int32),
        row=np.arange(n),
        columns={name: Texts.of(values) for name, values in gathered.columns.items()},
    )


def with_folders(listing: Listing, asked: Sequence[str]) -> Listing:
    """The listing with what folders are called as the column "class", if that is `asked` for and their names are not
    looked at otherwise; as it is where there is such a column or no folder differs."""
    files = listing.stacks[0].files if listing.stacks else ()
    if not files or "class" in listing.items.columns or not {"class", *(f"class:{role}" for role in ROLES)} & {*asked}:
        return listing
    classes = folder_roles([files[int(row)].rpartition("/")[0] for row in listing.items.row])[1]
    if len(set(classes)) < 2:
        return listing
    texts = Texts.of(classes)
    items = replace(listing.items, columns={**listing.items.columns, "class": texts})
    note = (
        f"the names of {len(set(classes)):,} folders are labels, as asked, and written into the model and its samples."
    )
    return replace(
        listing,
        items=items,
        profiles=(*listing.profiles, profile("class", texts)),
        notes=(*listing.notes, note),
    )


def without_names(skipped: Iterable[Skipped]) -> list[Skipped]:
    """Files that are left out, told by their endings alone, those of one ending and reason together."""
    why = "a link to another file of the set, which is kept once"
    kinds = Counter((suffix(one.name), why if one.link else one.reason, one.link) for one in skipped)
    return [Skipped(name=f"{n:,} x *{ending}", reason=reason, link=link) for (ending, reason, link), n in kinds.items()]


def by_digest(files: Mapping[str, bytes], broken: Mapping[str, str]) -> dict[str, str]:
    """The reasons by what files are called, which is nothing that is known of their names: eight digits of a hash."""
    found = {}
    for k, (name, why) in enumerate(broken.items()):
        try:
            alias = blake2b(files[name], digest_size=4).hexdigest()
        except Unreadable:
            alias = f"unreadable {k + 1}"
        found[f"{alias}{suffix(name)}"] = why
    return found
