"""What became of holding files to their digests."""

from typing import NamedTuple


class Verdict(NamedTuple):
    """What was found, a line each."""

    wrong: list[str]  # files that are not what was written
    unknown: list[str]  # what nothing vouches for: unfinished, or older than digests
