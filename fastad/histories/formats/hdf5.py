"""What HDF5 files from anywhere may hold: numbers of their own, no more of them than they store.

Such a file can name others, whose content would be taken for its own, and declare arrays of any
size in a few bytes. Both are refused before HDF5's library follows.
"""

import math
import os
from mmap import ACCESS_READ, mmap
from pathlib import Path
from struct import Struct, unpack_from
from typing import Any

from fastad.base.errors import UserError
from fastad.base.extras import import_extra

MOST_PER_BYTE = 2**12  # of numbers, for a byte that is stored: deflate makes up to 1,032 of one
FREE_BYTES = 2**12  # that no stored byte has to stand for
MAX_CHUNK_BYTES = 2**26  # held as a whole while a part of it is read
MAX_DEPTH = 16
MAX_SEARCHED_BYTES = 2**30
HEAP, HEAP_HEADER = b"GCOL\x01\x00\x00\x00", 16  # a collection of the global heap, version 1
OBJECT = Struct("<H6xQ")  # of it: index, 0 of free space, and bytes; as h5py has sizes written


def check_heaps(file: Path, where: str) -> None:
    """Refuse a file whose text HDF5's library would search without end, deaf to Ctrl-C.

    It walks the objects of a global heap by their sizes, and stays where free space has none. A
    single wrong bit leads there. Only files of up to a GiB are looked through, and walked over no
    longer than heaps that lie one behind the other take.

    Raises:
        UserError: If there is such a heap; `where` begins the message.
    """
    size = file.stat().st_size
    if not 0 < size <= MAX_SEARCHED_BYTES:
        return
    with file.open("rb") as stream, mmap(stream.fileno(), 0, access=ACCESS_READ) as content:
        at, left = content.find(HEAP), size // OBJECT.size
        while at >= 0:
            if at + HEAP_HEADER <= size:
                steps = _walk(content, at, size, left)
                if steps is None:
                    raise UserError(f"{where}: its text is damaged, at byte {at:,}")
                left -= steps
            at = content.find(HEAP, at + len(HEAP))


def _walk(content: mmap, at: int, size: int, most: int) -> int | None:
    """Objects of the heap at a place; None if they have no end, or are more than `most`."""
    (length,) = unpack_from("<Q", content, at + 8)
    end, place, steps = min(at + length, size), at + HEAP_HEADER, 0
    while place + OBJECT.size <= end:
        index, num_bytes = OBJECT.unpack_from(content, place)
        steps += 1
        if steps > most or (index == 0 and num_bytes == 0):
            return None
        place += num_bytes if index == 0 else OBJECT.size + -(-num_bytes // 8) * 8
    return steps


def member(group: Any, name: str, where: str) -> Any:
    """What a group itself holds under a name, checked; None if there is nothing.

    Raises:
        UserError: If that is a link, or an array that lies in another file or is larger than what
            is stored can be; `where` begins the message.
    """
    h5py = import_extra("h5py", "hdf5", where)
    links, key = group.id.links, name.encode(errors="surrogateescape")
    if not links.exists(key):
        return None
    path = f"{group.name.rstrip('/')}/{name}".lstrip("/")
    if links.get_info(key).type != h5py.h5l.TYPE_HARD:
        raise UserError(f"{where}: {path} is a link to what lies elsewhere; copy that into it")
    found = group[name]
    if isinstance(found, h5py.Dataset):
        _check_array(found, f"{where}: {path}")
    return found


def check_tree(file: Any, where: str) -> None:
    """Check everything below the root of an open file, for a library that reads it all.

    Raises:
        UserError: See `member`; also if groups are nested too deeply, or in one another.
    """
    h5py = import_extra("h5py", "hdf5", where)
    seen = {h5py.h5o.get_info(file.id).addr}
    groups = [(file, 0)]
    while groups:
        group, depth = groups.pop()
        if depth > MAX_DEPTH:
            raise UserError(f"{where}: groups are nested deeper than {MAX_DEPTH}; it is damaged")
        for name in group:
            found = member(group, name, where)
            address = h5py.h5o.get_info(found.id).addr
            if address in seen:
                raise UserError(f"{where}: {found.name} stands under two names; copy it instead")
            seen.add(address)
            if isinstance(found, h5py.Group):
                groups.append((found, depth + 1))


def _check_array(found: Any, where: str) -> None:
    if found.is_virtual or found.external:
        raise UserError(f"{where} lies in another file; copy its numbers into this one")
    size = found.dtype.itemsize
    in_file = os.fstat(found.file.id.get_vfd_handle()).st_size
    stored, wanted = found.id.get_storage_size(), math.prod(found.shape or ()) * size
    if stored > in_file:
        raise UserError(f"{where} claims {stored:,} bytes of a file of {in_file:,}; it is damaged")
    if wanted > FREE_BYTES + MOST_PER_BYTE * stored:
        raise UserError(
            f"{where} claims {wanted:,} bytes, of which {stored:,} are stored; it is damaged or "
            "was never filled"
        )
    if math.prod(found.chunks or ()) * size > MAX_CHUNK_BYTES:
        raise UserError(
            f"{where} has chunks of {math.prod(found.chunks) * size:,} bytes, at most "
            f"{MAX_CHUNK_BYTES:,} are read; store it in smaller ones"
        )


__all__ = ["check_heaps", "check_tree", "member"]
