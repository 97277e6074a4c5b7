"""Changes to valid files that keep their form: what a parser lets through to what stands behind."""

import copy
import json
import random
import re
from collections.abc import Callable
from typing import Any

import yaml

from tests.fuzz.containers import change_arrow, change_hdf5, change_parquet

PLANTED = "planted_by_a_file"  # a module that nothing may import, see `harness`
NUMBERS = (
    0, 1, -1, 2, 3, 7, 255, 256, 2**15, 2**24, 2**31 - 1, 2**31, 2**40, 2**63 - 1, 2**63, 2**64,
    10**30, -(2**31), -(2**63), 0.5, 1e-300, 1e300, float("inf"), float("-inf"), float("nan"),
)  # fmt: skip
WORDS = (
    "", "a", "..", "../../outside", "/etc/passwd", "\x1b[31mred", "\u202e", "\x00", "x" * 5000,
    "None", "true", "1e400", f"{PLANTED}:run", f"sb3:{PLANTED}:run", f"gym:{PLANTED}:Run-v0",
    "os:system", "sb3:PPO", "gym:CartPole-v1", "dark-room", "point-mass", "watermaze", "expert",
    "frontier", "policy", "expert_policy", "final_policy", "bool", "float64", "object", "Box",
    "Dict", "Discrete", "MultiDiscrete", "Tuple", "gru", "rl2", "dpt", "unordered", "\ud800",
)  # fmt: skip
OTHERS = (None, True, False, [], {}, [[]], [None], {"a": 1}, [0] * 100)
SPACES = (
    {"type": "Discrete", "n": 3, "start": -1},
    {"type": "MultiDiscrete", "nvec": [2, 3]},
    {"type": "Box", "shape": [2], "low": -1.0, "high": 1.0, "dtype": "float32"},
    {"type": "Dict", "spaces": [["a", {"type": "Discrete", "n": 2}]]},
    {"type": "Tuple", "spaces": [{"type": "Discrete", "n": 2}]},
    {"type": "Tuple", "subspaces": [{"type": "Discrete", "n": 2, "start": 0}]},
    {"type": "Dict", "subspaces": {"a/b": {"type": "MultiBinary", "n": [2, 2]}}},
    {"type": "Text", "min_length": 0, "max_length": 9, "charset": "ab"},
)


def change(name: str, content: bytes, rng: random.Random) -> bytes | None:
    """One file changed in its own form; None where it has lost it.

    Args:
        name: Its ending tells the form.
        content: What it holds.
        rng: Draws what is changed.
    """
    ending = name.rpartition(".")[2]
    mutate = FORMS.get(ending)
    try:
        return None if mutate is None else mutate(content, rng)
    except Exception:  # of any library, on a file that an earlier change has broken
        return None


def change_values(values: Any, rng: random.Random) -> Any:
    """Plain values with up to three nodes of their tree changed."""
    values = copy.deepcopy(values)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        values = _change_node(values, rng)
    return values


def _change_node(values: Any, rng: random.Random) -> Any:
    places = list(_places(values))
    if not places:
        return _any_value(values, rng)
    holder, key = rng.choice(places)
    how = rng.random()
    if isinstance(holder[key], str) and holder[key].startswith("{") and how < 0.8:
        holder[key] = json.dumps(change_values(json.loads(holder[key]), rng))  # JSON within JSON
    elif how < 0.45:
        holder[key] = _any_value(holder[key], rng)
    elif how < 0.6:
        del holder[key]
    elif how < 0.7 and isinstance(holder, dict):
        holder[str(rng.choice(WORDS))] = holder.pop(key)
    elif how < 0.8:
        other, place = rng.choice(places)
        holder[key] = copy.deepcopy(other[place]) if place in _keys(other) else None
    elif how < 0.9:
        for _ in range(rng.choice((1, 2, 20, 2000))):
            holder[key] = [holder[key]] if rng.random() < 0.5 else {"a": holder[key]}
    elif isinstance(holder, list):
        holder *= rng.choice((0, 2, 100))
    else:
        holder[rng.choice(WORDS)] = rng.choice(OTHERS)
    return values


def _any_value(old: Any, rng: random.Random) -> Any:
    kinds: list[Callable[[], Any]] = [
        lambda: rng.choice(NUMBERS), lambda: rng.choice(WORDS), lambda: rng.choice(OTHERS),
        lambda: copy.deepcopy(rng.choice(SPACES)),
    ]  # fmt: skip
    if isinstance(old, (int, float)) and not isinstance(old, bool):
        kinds += [lambda: old + 1, lambda: old - 1, lambda: -old, lambda: old * 2, kinds[0]]
    if isinstance(old, str):
        kinds += [kinds[1], lambda: old + rng.choice(WORDS), lambda: old[: len(old) // 2]]
    return rng.choice(kinds)()


def _places(values: Any) -> Any:
    """Every (container, key) of the tree, a few levels deep."""
    stack = [(values, 0)]
    while stack:
        holder, depth = stack.pop()
        for key in _keys(holder):
            yield holder, key
            if depth < 6:
                stack.append((holder[key], depth + 1))


def _keys(holder: Any) -> list[Any]:
    if isinstance(holder, dict):
        return list(holder)
    return list(range(min(len(holder), 40))) if isinstance(holder, list) else []


def _json(content: bytes, rng: random.Random) -> bytes:
    values = change_values(json.loads(content), rng)
    text = json.dumps(values, indent=rng.choice((None, 2)))
    if rng.random() < 0.1:
        text = re.sub(r"\d+", lambda match: match[0] * rng.choice((1, 1, 500, 6000)), text, count=3)
    return text.encode()


def _yaml(content: bytes, rng: random.Random) -> bytes:
    values = change_values(yaml.safe_load(content), rng)
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode()


def _lines(content: bytes, rng: random.Random) -> bytes:
    lines = content.splitlines()
    index = rng.randrange(len(lines))
    lines[index] = json.dumps(change_values(json.loads(lines[index]), rng)).encode()
    return b"\n".join(lines) + b"\n" * rng.choice((0, 1))


def _npy(content: bytes, rng: random.Random) -> bytes:
    """The header of a .npy file, its numbers, dtype and order."""
    length = int.from_bytes(content[8:10], "little")
    header, data = content[10 : 10 + length].decode("latin1").strip(), content[10 + length :]
    dtypes = ("<f4", "<f8", "<i8", "|u1", "|b1", ">i4", "|O", "<U9999999", "|V8", "<M8[s]", "<c8",
              "|S0", "[('a', '<i4')]", "(2,)f4")  # fmt: skip
    how = rng.random()
    if how < 0.35:
        numbers = list(re.finditer(r"\d+", header.rpartition("'shape'")[2]))
        at = header.rindex("'shape'") + len("'shape'")
        pick = rng.choice(numbers)
        text = str(rng.choice([n for n in NUMBERS if isinstance(n, int)]))
        header = header[: at + pick.start()] + text + header[at + pick.end() :]
    elif how < 0.6:
        text = rng.choice(dtypes)
        text = text if text.startswith("[") else repr(text)
        header = re.sub(r"'descr': '[^']*'", lambda match: f"'descr': {text}", header)
    elif how < 0.7:
        header = header.replace("False", rng.choice(("True", "0", "None")))
    elif how < 0.8:
        header = re.sub(
            r"\([^()]*\)", lambda match: rng.choice(("()", "(2,)", "5", "(0, 3)")), header
        )
    elif how < 0.9:
        header = rng.choice((f"__import__('{PLANTED}')", "[" * 3000, "{" + header, "1" * 5000, ""))
    elif data:
        start = rng.randrange(len(data))
        data = data[:start] + rng.choice((b"", b"\xff" * 8, b"\x00" * 8)) + data[start + 8 :]
    encoded = header.encode("latin1")
    encoded += b" " * (-(len(encoded) + 11) % 64) + b"\n"
    return content[:8] + (len(encoded) & 0xFFFF).to_bytes(2, "little") + encoded + data


def _safetensors(content: bytes, rng: random.Random) -> bytes:
    """Its JSON header; the length before it fits, mostly."""
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(change_values(json.loads(content[8 : 8 + length]), rng)).encode()
    told = len(header) if rng.random() < 0.9 else rng.choice((0, 2**40, 2**63, len(header) + 9))
    return told.to_bytes(8, "little") + header + content[8 + length :]


FORMS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "arrow": change_arrow,
    "hdf5": change_hdf5,
    "json": _json,
    "jsonl": _lines,
    "npy": _npy,
    "parquet": change_parquet,
    "safetensors": _safetensors,
    "yaml": _yaml,
}
