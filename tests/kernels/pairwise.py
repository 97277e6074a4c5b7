"""Choice of test cases: every pair of settings once, instead of every combination."""

import itertools
from collections.abc import Sequence
from typing import Any


def pairwise(**factors: Sequence[Any]) -> list[dict[str, Any]]:
    """Cases in which any two settings of any two factors meet at least once.

    Greedy: each case starts from a pair not yet met, then takes for each other factor the setting
    that meets the most. Always the same list for the same factors.
    """
    names = list(factors)
    sizes = {name: range(len(settings)) for name, settings in factors.items()}

    def pairs_of(case: dict[str, int]) -> set[tuple[str, int, str, int]]:
        chosen = [name for name in names if name in case]
        return {(a, case[a], b, case[b]) for a, b in itertools.combinations(chosen, 2)}

    missing = [
        (a, i, b, j)
        for a, b in itertools.combinations(names, 2)
        for i in sizes[a]
        for j in sizes[b]
    ]
    cases = []
    while missing:
        a, i, b, j = missing[0]
        case, open_pairs = {a: i, b: j}, set(missing)
        for name in names:
            if name not in case:
                case[name] = max(
                    sizes[name], key=lambda s: len(pairs_of(case | {name: s}) & open_pairs)
                )
        met = pairs_of(case)
        missing = [pair for pair in missing if pair not in met]
        cases.append({name: factors[name][case[name]] for name in names})
    return cases
