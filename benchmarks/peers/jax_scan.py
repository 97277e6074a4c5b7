"""The whole rollout as one XLA program: `lax.scan` over model, sampling and environment.

How JAX code rolls out in context: nothing returns to Python between the steps of a block.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness import peer
from fastad.acting.steps import Steps
from fastad.envs.grid import STEPS
from fastad.model.sequence_model import SequenceModel

SIZE = 9  # of the room


class JaxScan:
    """A model's weights, its ring KV caches and Dark Room, in float32 on JAX's default device.

    Caches are donated to each call and updated in place, and all environments are in lockstep: the
    same slot of every ring is the next.

    Args:
        model: Without positions, fused layout, pre-norm.
        num_envs: `N`.
        full: Whether the caches begin filled, with noise.
    """

    def __init__(self, model: SequenceModel, num_envs: int, *, full: bool) -> None:
        self.jax = peer("jax")
        config = model.config
        assert (config.positions, config.layout, config.norm) == ("none", "fused", "pre")
        assert config.episode_step
        self.num_envs, self.num_actions = num_envs, model.actions.num_params
        self.heads, self.scale = (config.num_heads, config.head_dim), config.head_dim**-0.5
        self.epsilon, self.capacity = model.heads.norm.eps, config.context
        self.last_step = model.episode_length - 1
        self.reward_shift, self.reward_scale = model.reward_shift, model.reward_scale
        self.weights = self.jax.tree.map(lambda x: self.jax.numpy.asarray(x), _weights(model))
        # On XLA's CPU backend slots before heads are twice as quick with one environment, heads
        # before slots three times with 64, where XLA transposes the former for every product.
        self.order = "nchd" if num_envs == 1 else "nhcd"
        num_heads, head_dim = self.heads
        sizes = {"n": num_envs, "c": self.capacity, "h": num_heads, "d": head_dim}
        shape = tuple(sizes[axis] for axis in self.order)
        keys = iter(self.jax.random.split(self.jax.random.key(0), 2 * config.num_layers))
        fill = self.jax.random.normal if full else lambda key, shape: self.jax.numpy.zeros(shape)
        self.cache = [
            (fill(next(keys), shape), fill(next(keys), shape)) for _ in model.trunk.blocks
        ]
        self.position = self.jax.numpy.int32(self.capacity if full else 0)
        self._decode = self.jax.jit(self._logits, donate_argnums=1)

    def predict(self, steps: Steps, idle: Tensor | None = None) -> Tensor:
        """See `Memory.predict`."""
        shown = (field for field in steps if field is not None)
        arrays = [self.jax.numpy.asarray(field[:, 0].cpu().numpy()) for field in shown]
        self.cache, logits = self._decode(self.weights, self.cache, self.position, arrays)
        self.position += 1
        return torch.from_numpy(self.jax.device_get(logits).copy()).to(steps.observation.device)

    def interact(self, goals: Tensor, *, block_steps: int) -> Iterator[Any]:
        """Act in Dark Room; yields, as arrays (steps, N, ...), the same as `interact`.

        Args:
            goals: (N, 2).
            block_steps: Steps of one call.
        """
        jax, zeros = self.jax, self.jax.numpy.zeros(self.num_envs, "int32")
        block = jax.jit(partial(self._block, block_steps=block_steps), donate_argnums=(1, 2))
        room = (
            jax.numpy.full((self.num_envs, 2), SIZE // 2, "int32"),
            jax.numpy.full_like(zeros, self.num_actions),
            zeros.astype("float32"),
            zeros,
        )
        state = self.cache, self.position, room
        del self.cache  # given away
        key, goals = jax.random.key(0), jax.numpy.asarray(goals.cpu().numpy(), dtype="int32")
        while True:
            state, key, transitions = block(self.weights, state, key, goals)
            yield jax.block_until_ready(transitions)

    def _block(self, weights: Any, state: Any, key: Any, goals: Any, *, block_steps: int) -> Any:
        jax, jnp = self.jax, self.jax.numpy
        key, draw = jax.random.split(key)
        moves = jnp.asarray(STEPS, "int32")

        def step(state: Any, uniform: Any) -> Any:
            cache, position, (cell, action, reward, time) = state
            shown = (cell, action, reward, time == 0, time)
            cache, logits = self._logits(weights, cache, position, shown)
            probs = jax.nn.softmax(logits)
            action = (uniform[:, None] >= jnp.cumsum(probs, axis=1)[:, :-1]).sum(1, dtype="int32")
            end = jnp.clip(cell + moves[action], 0, SIZE - 1)
            reward = (end == goals).all(axis=1).astype("float32")
            truncated = time == self.last_step
            seen = cell, action, reward, jnp.zeros_like(truncated), truncated, probs
            cell = jnp.where(truncated[:, None], SIZE // 2, end)
            room = (cell, action, reward, jnp.where(truncated, 0, time + 1))
            return (cache, position + 1, room), seen

        uniform = jax.random.uniform(draw, (block_steps, self.num_envs))
        state, transitions = jax.lax.scan(step, state, uniform)
        return state, key, transitions

    def _logits(self, weights: Any, cache: Any, position: Any, steps: Any) -> Any:
        """The caches with one step more, and its logits (N, A)."""
        x = self._embed(weights["embedding"], *steps)
        slot = position % self.capacity
        held = self.jax.numpy.arange(self.capacity) <= position
        cache = list(cache)
        for index, block in enumerate(weights["blocks"]):
            attended, cache[index] = self._attend(block, x, cache[index], slot, held)
            x = x + _linear(block["out"], attended)
            hidden = _linear(block["mlp_in"], self._norm(block["mlp_norm"], x))
            x = x + _linear(block["mlp_out"], self.jax.nn.gelu(hidden, approximate=False))
        return cache, _linear(weights["head"], self._norm(weights["norm"], x))

    def _embed(
        self, tables: Any, observation: Any, action: Any, reward: Any, start: Any, time: Any
    ) -> Any:
        place = tables["observation"][observation + tables["offsets"].astype("int32")]
        reward = (reward - self.reward_shift) / self.reward_scale
        reward = self.jax.numpy.where(action == self.num_actions, 0.0, reward)
        x = tables["action"][action] + reward[:, None] * tables["reward"][action]
        return x + place.sum(1) + tables["start"][start.astype("int32")] + tables["step"][time]

    def _attend(self, block: Any, x: Any, cache: Any, slot: Any, held: Any) -> Any:
        """What the heads bring (N, width), and the layer's keys and values, in their order."""
        jnp, update = self.jax.numpy, self.jax.lax.dynamic_update_slice
        tokens = _linear(block["qkv"], self._norm(block["attention_norm"], x))
        q, *new = (part.reshape(-1, *self.heads) for part in jnp.split(tokens, 3, axis=1))
        slots = self.order.index("c")
        start = [slot if axis == slots else 0 for axis in range(4)]
        keys, values = (
            update(old, jnp.expand_dims(heads, slots), start)
            for old, heads in zip(cache, new, strict=True)
        )
        scores = jnp.einsum(f"nhd,{self.order}->nhc", q * self.scale, keys)
        probs = self.jax.nn.softmax(jnp.where(held, scores, -jnp.inf))
        return jnp.einsum(f"nhc,{self.order}->nhd", probs, values).reshape(x.shape), (keys, values)

    def _norm(self, affine: Any, x: Any) -> Any:
        x = x - x.mean(axis=1, keepdims=True)
        deviation = self.jax.lax.rsqrt((x * x).mean(axis=1, keepdims=True) + self.epsilon)
        return x * deviation * affine[0] + affine[1]


def _linear(affine: Any, x: Any) -> Any:
    return x @ affine[0] + affine[1]


def _weights(model: SequenceModel) -> Any:
    """As NumPy arrays; matrices transposed, as JAX code keeps them."""
    encoder = model.encoder
    tables = {name: getattr(encoder, name).weight for name in ("action", "reward", "start", "step")}
    tables |= {
        "observation": encoder.observation.table.weight,
        "offsets": encoder.observation.offsets,
    }
    blocks = [
        {
            "attention_norm": _affine(block.attention_norm),
            "qkv": _affine(block.query, block.key, block.value),
            "out": _affine(block.attention_out),
            "mlp_norm": _affine(block.mlp_norm),
            "mlp_in": _affine(block.mlp_in),
            "mlp_out": _affine(block.mlp_out),
        }
        for block in model.trunk.blocks
    ]
    return {
        "embedding": {name: table.detach().cpu().numpy() for name, table in tables.items()},
        "blocks": blocks,
        "norm": _affine(model.heads.norm),
        "head": _affine(model.heads.policy),
    }


def _affine(*layers: nn.Module) -> tuple[Any, Any]:
    weight, bias = (
        torch.cat([getattr(layer, name).detach().cpu() for layer in layers])
        for name in ("weight", "bias")
    )
    return weight.t().contiguous().numpy(), bias.numpy()
