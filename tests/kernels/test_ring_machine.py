"""The ring cache as a state machine: any order of appends and resets equals attention over lists.

The specification keeps every token since an environment's last reset, and knows no ring.
"""

import pytest
import torch
from fastad_kernels import (
    RingCache,
    alibi_slopes,
    apply_rope,
    attention,
    decode_attention,
    native,
    rope_angles,
)
from fastad_kernels.quantization import dequantize, quantize
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

HEADS, KV_HEADS, DIM = 4, 2, 16
# Each implementation with the orders of memory that it takes, the first being its own.
ORDERS = {"reference": ("head", "token", "column"), "sdpa": ("head", "token", "column")}
if native.why_unavailable() is None:
    ORDERS["native"] = ("column",)
DTYPES = {"native": (torch.float32,)}
ANY = (torch.float32, torch.bfloat16, torch.float16, torch.int8)
# Of outputs near 1: float32 sums in another order; what is stored is rounded on both sides alike.
CLOSE = 2e-5


class Ring(RuleBasedStateMachine):
    """Appends, resets and re-taskings of a few environments."""

    @initialize(
        impl=st.sampled_from(sorted(ORDERS)),
        scheme=st.sampled_from(["none", "rope", "alibi"]),
        num_envs=st.integers(1, 4),
        window=st.integers(1, 9),
        most=st.integers(1, 4),
        spare=st.integers(0, 3),
        data=st.data(),
    )
    def begin(self, impl, scheme, num_envs, window, most, spare, data):
        self.impl, self.scheme, self.window, self.most = impl, scheme, window, most
        self.dtype = data.draw(st.sampled_from(DTYPES.get(impl, ANY)))
        order = data.draw(st.sampled_from(ORDERS[impl]))
        self.cache = RingCache(
            num_envs, window + most - 1 + spare, KV_HEADS, DIM, dtype=self.dtype, order=order
        )
        self.seen = [self._nothing() for _ in range(num_envs)]
        self._poison(torch.ones(num_envs, dtype=torch.bool))

    @rule(tokens=st.integers(1, 4), seed=st.integers(0, 2**31))
    def append(self, tokens, seed):
        tokens, num_envs = min(tokens, self.most), len(self.seen)
        generator = torch.Generator().manual_seed(seed)
        q, k, v = (
            torch.randn(num_envs, tokens, heads, DIM, generator=generator)
            for heads in (HEADS, KV_HEADS, KV_HEADS)
        )
        positions = self.cache.new_positions(tokens)
        rope = rope_angles(positions, DIM) if self.scheme == "rope" else None
        slopes = alibi_slopes(HEADS) if self.scheme == "alibi" else None
        out = decode_attention(
            q, k, v, self.cache, window=self.window, alibi_slopes=slopes, rope=rope, impl=self.impl
        )
        assert out.isfinite().all(), "what nobody wrote was read"
        for env, (keys, values) in enumerate(self.seen):
            began = keys.shape[1]
            assert positions[env].tolist() == list(range(began, began + tokens))
            angles = rope_angles(torch.arange(began, began + tokens), DIM)
            query, key = q[env : env + 1], k[env : env + 1]
            if rope is not None:
                query, key = apply_rope(query, *angles), apply_rope(key, *angles)
            keys = torch.cat([keys, self._stored(key)], dim=1)
            values = torch.cat([values, self._stored(v[env : env + 1])], dim=1)
            self.seen[env] = keys, values
            expected = attention(
                query.double(), keys.double(), values.double(), window=self.window,
                alibi_slopes=slopes, impl="reference",
            )  # fmt: skip
            torch.testing.assert_close(
                out[env : env + 1].double(), expected, rtol=CLOSE, atol=CLOSE
            )

    @rule(chosen=st.lists(st.booleans(), min_size=4, max_size=4))
    def forget(self, chosen):
        """Other tasks for some: what they remember goes, and what is left there is anything."""
        mask = torch.tensor(chosen[: len(self.seen)])
        self.cache.reset(mask)
        self._poison(mask)
        self.seen = [
            self._nothing() if gone else kept
            for gone, kept in zip(mask.tolist(), self.seen, strict=True)
        ]

    @rule()
    def forget_all(self):
        self.cache.reset()
        self._poison(torch.ones(len(self.seen), dtype=torch.bool))
        self.seen = [self._nothing() for _ in self.seen]

    @rule()
    def untrack(self):
        self.cache.untrack()

    def teardown(self):
        """Lengths are those of the lists, and lockstep, where it is known, is that of all."""
        if hasattr(self, "cache"):
            lengths = [keys.shape[1] for keys, _ in self.seen]
            assert self.cache.lengths.tolist() == lengths
            assert self.cache.lockstep is None or {self.cache.lockstep} == set(lengths)

    def _nothing(self):
        return torch.zeros(1, 0, KV_HEADS, DIM), torch.zeros(1, 0, KV_HEADS, DIM)

    def _stored(self, x):
        """As it comes back from the storage."""
        return dequantize(*quantize(x), x.dtype) if self.dtype == torch.int8 else x.to(self.dtype)

    def _poison(self, mask):
        if self.dtype == torch.int8:
            self.cache.key_scales[mask] = float("nan")
            self.cache.value_scales[mask] = float("nan")
            return
        self.cache.keys[mask] = float("nan")
        self.cache.values[mask] = float("nan")


TestRing = Ring.TestCase
TestRing.settings = settings(stateful_step_count=14)


@pytest.mark.slow
class TestRingThoroughly(Ring.TestCase):
    settings = settings(settings.get_profile("thorough"), max_examples=2000, stateful_step_count=50)
