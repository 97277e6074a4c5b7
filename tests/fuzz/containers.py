"""Changes to HDF5, Parquet and Arrow files, made by the libraries that write such files."""

import base64
import io
import json
import random
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np
import pyarrow
from pyarrow import ipc, parquet

from fastad.base.files import digest
from tests.fuzz.foreign import OUTSIDE

Change = Callable[[Any, random.Random], None]
NUMBERS = (0, 1, -1, 2, 3, 156, 255, 2**31, 2**40, 2**62, -(2**63), 0.5, 1e300, np.nan, np.inf)
WORDS = ("", "a", "0", "1", "2", "7", "../outside", "/etc/passwd", "\x1b[31mred", "x" * 5000,
         "policy", "history", "task", "seed", "total_steps", "infos", "final_policy")  # fmt: skip
DTYPES = ("u1", "i1", "u2", "i4", "i8", "f2", "f4", "f8", "?", "c8", "S3", "V5", ">i4",
          [("a", "<i4"), ("b", "<f4")], "O", h5py.string_dtype(), h5py.vlen_dtype(np.uint8),
          h5py.ref_dtype, h5py.enum_dtype({"A": 0, "B": 1}, basetype="u1"))  # fmt: skip
TYPES = (pyarrow.int8(), pyarrow.int64(), pyarrow.float16(), pyarrow.float32(), pyarrow.float64(),
         pyarrow.bool_(), pyarrow.string(), pyarrow.binary(), pyarrow.uint64(),
         pyarrow.timestamp("s"), pyarrow.decimal128(5, 2))  # fmt: skip


def change_hdf5(content: bytes, rng: random.Random) -> bytes:
    """An HDF5 file with up to three of its links, attributes and datasets changed."""
    stream = io.BytesIO(content)
    with h5py.File(stream, "r+") as file:
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            rng.choice(HDF5_CHANGES)(file, rng)
    return stream.getvalue()


def change_parquet(content: bytes, rng: random.Random) -> bytes:
    """A Parquet file, its table changed, or written in another way."""
    table = _changed(parquet.read_table(io.BytesIO(content)), rng)
    stream = io.BytesIO()
    parquet.write_table(
        table, stream, row_group_size=rng.choice((1, 2, 1024)),
        compression=rng.choice(("zstd", "none", "snappy", "gzip", "lz4")),
        use_dictionary=rng.random() < 0.5, version=rng.choice(("1.0", "2.6")),
        data_page_version=rng.choice(("1.0", "2.0")), write_page_checksum=rng.random() < 0.5,
        store_schema=rng.random() < 0.8,
    )  # fmt: skip
    return stream.getvalue()


def change_arrow(content: bytes, rng: random.Random) -> bytes:
    """A file of Arrow's own format, its table changed."""
    table = _changed(ipc.open_file(io.BytesIO(content)).read_all(), rng)
    stream = io.BytesIO()
    with ipc.new_file(stream, table.schema) as writer:
        writer.write_table(table, max_chunksize=rng.choice((1, 1024)))
    return stream.getvalue()


def _attribute(file: Any, rng: random.Random) -> None:
    told = rng.choice(_all(file)).attrs
    name = rng.choice([*told] * 4 + ["options/a", rng.choice(WORDS)])
    how = rng.random()
    if how < 0.2:
        del told[name]
    elif how < 0.3:
        told[rng.choice(WORDS) or "b"] = told[name]
    else:
        told[name] = rng.choice(
            (*NUMBERS, *WORDS, h5py.Empty("f4"), [1, 2], [[0.5]], [], np.zeros(3, "c8"), b"\xff",
             ["a", "b"], np.array([2**63], np.uint64), np.zeros(5000, np.uint8), True,
             np.array((1, 2.0), [("a", "i4"), ("b", "f4")]))
        )  # fmt: skip


def _delete(file: Any, rng: random.Random) -> None:
    del file[_any(file, rng).name]


def _move(file: Any, rng: random.Random) -> None:
    found = _any(file, rng)
    word = rng.choice(("a", "2", "infos", "_index_0", "policy", rng.choice(_all(file)).name + "/b"))
    file.move(found.name, word if "/" in word else f"{found.parent.name}/{word}")


def _copy(file: Any, rng: random.Random) -> None:
    found, name = _any(file, rng), _any(file, rng).name
    if isinstance(found, h5py.Dataset) and found not in _datasets(file):
        return
    file.copy(found, "copied")
    del file[name]
    file.move("copied", name)


def _link(file: Any, rng: random.Random) -> None:
    """A name that stands for something else: of this file, or of another."""
    name = _any(file, rng).name
    if rng.random() < 0.5:
        name += rng.choice(("2", "/a"))
    target = rng.choice(_all(file))
    if name in file:
        del file[name]
    file[name] = rng.choice(
        (target, h5py.SoftLink(target.name), h5py.SoftLink("/"), h5py.SoftLink(name),
         h5py.ExternalLink(OUTSIDE, target.name), h5py.ExternalLink(OUTSIDE, "/0/rewards"),
         h5py.ExternalLink(f"../../{OUTSIDE}", "/0/rewards"))
    )  # fmt: skip


def _values(file: Any, rng: random.Random) -> None:
    found = rng.choice(_datasets(file))
    if found.dtype.kind not in "biuf":  # h5py takes a number for an address then
        return
    place = tuple(rng.randrange(size) for size in found.shape)
    found[place[: rng.randrange(len(place) + 1)]] = rng.choice(NUMBERS)


def _dataset(file: Any, rng: random.Random) -> None:
    """A dataset in another's place: of another kind, shape or layout."""
    found = rng.choice(_datasets(file))
    name, shape, dtype, values = found.name, list(found.shape), found.dtype, found[()]
    told: dict[str, Any] = {}
    how = rng.random()
    if how < 0.3:
        dtype, values = rng.choice(DTYPES), None
    elif how < 0.6 and shape:
        shape[rng.randrange(len(shape))] = rng.choice((0, 1, 2, 3, 300, 2**20, 2**31, 2**40, 2**62))
        values = None
        told = {"chunks": tuple(max(1, min(s, 4)) for s in shape) if rng.random() < 0.7 else None}
    elif how < 0.7:
        shape, values = rng.choice(([], [1], shape[:-1], [*shape, 1], shape[::-1])), None
    elif how < 0.85:
        big, values = rng.choice((2**10, 2**20, 2**24, 2**28, 2**40)), None
        told = {"chunks": tuple(min(s * big, big) for s in shape), "maxshape": (None,) * len(shape)}
    told |= rng.choice(
        ({}, {"compression": "gzip"}, {"compression": "lzf"}, {"shuffle": True},
         {"fletcher32": True}, {"scaleoffset": 3}, {"fillvalue": 7})
    )  # fmt: skip
    del file[name]
    if how < 0.95:
        file.create_dataset(name, shape=shape, dtype=dtype, data=values, **told)
    elif rng.random() < 0.5:
        place = rng.choice((OUTSIDE, f"../../{OUTSIDE}", "/etc/passwd"))
        file.create_dataset(name, shape, dtype, external=[(place, 0, h5py.h5f.UNLIMITED)])
    else:
        layout = h5py.VirtualLayout(shape=tuple(shape), dtype=dtype)
        source = rng.choice((OUTSIDE, f"../../{OUTSIDE}", "."))
        layout[...] = h5py.VirtualSource(source, name, shape=tuple(shape))
        file.create_virtual_dataset(name, layout)


HDF5_CHANGES: tuple[Change, ...] = (
    _attribute, _delete, _move, _copy, _link, _values, _values, _dataset, _dataset, _dataset,
)  # fmt: skip


def _all(file: Any) -> list[Any]:
    found = [file]
    file.visititems(lambda name, thing: found.append(thing))
    return found


def _any(file: Any, rng: random.Random) -> Any:
    """Anything but the root."""
    return rng.choice(_all(file)[1:])


def _datasets(file: Any) -> list[Any]:
    """Those that were not blown up already, which to read here has no end."""
    found = [thing for thing in _all(file) if isinstance(thing, h5py.Dataset)]
    return [array for array in found if (array.nbytes or 0) < 2**20 and not array.is_virtual]


def _changed(table: Any, rng: random.Random) -> Any:
    """A table of Arrow with up to three changes, and its description with up to one."""
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        table = _change_table(table, rng)
    told = dict(table.schema.metadata or {})
    if told and rng.random() < 0.4:
        key = rng.choice([*told])
        told[key] = _change_description(told[key], rng)
        table = table.replace_schema_metadata(told)
    return table


def _change_description(text: bytes, rng: random.Random) -> bytes:
    """What `describe` gave, in which a value is another; the tasks' digest may follow."""
    from tests.fuzz.mutations import change_values

    told = json.loads(text)
    if rng.random() < 0.5:
        told["info"] = change_values(told["info"], rng)
    else:
        told = change_values(told, rng)
    if rng.random() < 0.3:
        tasks = np.load(io.BytesIO(base64.b64decode(told["tasks"])))
        stream = io.BytesIO()
        np.save(stream, rng.choice((tasks[:1], tasks.astype("f4"), tasks * np.nan, tasks[:, :0])))
        told["tasks"] = base64.b64encode(stream.getvalue()).decode()
        told["info"]["tasks_digest"] = rng.choice(("", digest(stream.getvalue())))
    return json.dumps(told).encode()


def _change_table(table: Any, rng: random.Random) -> Any:
    index, how, size = rng.randrange(table.num_columns), rng.random(), len(table)
    name, column = table.field(index).name, table.column(index)
    if how < 0.1:
        return table.remove_column(index)
    if how < 0.2:
        other = rng.choice((rng.choice(table.column_names), "a", name + ".a"))
        names = [other if i == index else n for i, n in enumerate(table.column_names)]
        return table.rename_columns(names)
    if how < 0.3:
        return table.append_column(rng.choice((name, "policy", "a")), column)
    if how < 0.45:
        kept = [rng.randrange(size) for _ in range(rng.choice((0, 1, size, size, 2 * size)))]
        return table.take(pyarrow.array(kept if rng.random() < 0.5 else sorted(kept)))
    if how < 0.5:
        return table.take(pyarrow.array(np.zeros(rng.choice((2**8, 2**12)), np.int64)))
    values = column.to_pylist()
    if how < 0.6:
        return table.set_column(index, name, column.cast(rng.choice(TYPES)))
    if how < 0.7 and pyarrow.types.is_fixed_size_list(column.type):
        length = rng.choice((0, 1, 2, 3, 7))
        kind = rng.choice((pyarrow.list_(column.type.value_type, length), pyarrow.list_(TYPES[3])))
        rows = [[0.0] * length if rng.random() < 0.95 else None for _ in values]
        return table.set_column(index, name, pyarrow.array(rows, kind))
    if how < 0.75:
        return table.set_column(index, name, column.combine_chunks().dictionary_encode())
    at = rng.randrange(size)
    if isinstance(values[at], list):
        values[at][rng.randrange(len(values[at]))] = rng.choice((*NUMBERS, None))
    else:
        values[at] = rng.choice((*NUMBERS, None, True))
    return table.set_column(index, name, pyarrow.array(values, column.type))


__all__ = ["change_arrow", "change_hdf5", "change_parquet"]
