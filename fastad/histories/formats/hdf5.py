"""What HDF5 files from anywhere may hold: numbers of their own, no more of them than they store.

Such a file can name others, whose content would be taken for its own, and declare arrays of any
size in a few bytes. Both are refused before HDF5's library follows.
"""

import math
import os
from typing import Any

from fastad.base.errors import UserError
from fastad.base.extras import import_extra

MOST_PER_BYTE = 2**12  # of numbers, for a byte that is stored: deflate makes up to 1,032 of one
FREE_BYTES = 2**12  # that no stored byte has to stand for
MAX_CHUNK_BYTES = 2**26  # held as a whole while a part of it is read
MAX_DEPTH = 16


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
    stored = min(found.id.get_storage_size(), in_file)
    wanted = math.prod(found.shape or ()) * size
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


__all__ = ["check_tree", "member"]
