"""Which tiles a GPU takes, and that they fit those that are not compiled for."""

import pytest

pytest.importorskip("triton")

from fastad_kernels.testing.budgets import read_budgets
from fastad_kernels.triton.tiles import _architecture

CONSUMER_SHARED_BYTES = 99 * 1024  # of a block, for capabilities 8.6, 8.9 and 12


@pytest.mark.parametrize(
    ("capability", "architecture"),
    [
        ("80", "sm_80"),
        ("86", "sm_80"),
        ("89", "sm_80"),
        ("90", "sm_90"),
        ("100", "sm_100"),
        ("103", "sm_100"),
        ("120", "sm_80"),
        ("121", "sm_80"),
    ],
)
def test_a_capability_takes_tiles_that_it_can_launch(capability, architecture):
    assert _architecture("cuda", capability) == architecture


def test_every_sm_80_variant_fits_the_99_kb_of_consumer_cards():
    used = {
        key: row.shared_bytes for key, row in read_budgets().items() if key[0].startswith("sm_80/")
    }
    assert used
    assert {key: size for key, size in used.items() if size > CONSUMER_SHARED_BYTES} == {}
