"""A cache that is rolled: a full context is copied, one token shorter, before each new token.

Public implementations of Algorithm Distillation that have a cache at all keep it so.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fastad.acting.steps import Steps
from fastad.model.sequence_model import SequenceModel


class RolledCache:
    """Keys and values of the last W tokens, oldest first, each layer (B, H, tokens, D)."""

    def __init__(self, model: SequenceModel, num_envs: int) -> None:
        config = model.config
        assert (config.positions, config.layout, config.norm) == ("none", "fused", "pre")
        self.model, self.heads = model, (config.num_heads, config.head_dim)
        device = model.heads.policy.weight.device
        empty = torch.empty(num_envs, config.num_heads, 0, config.head_dim, device=device)
        self.layers = [(empty, empty) for _ in model.trunk.blocks]

    @torch.inference_mode()
    def decode(self, steps: Steps) -> Tensor:
        """Logits (B, A) of one more step (B, 1)."""
        model = self.model
        x = model.encoder(steps, model.encoder.observe(steps))
        for index, block in enumerate(model.trunk.blocks):
            tokens = block.attention_norm(x)
            q, k, v = (
                projection(tokens).unflatten(-1, self.heads).transpose(1, 2)
                for projection in (block.query, block.key, block.value)
            )
            keep = model.config.context - 1
            keys, values = (
                torch.cat([old[:, :, -keep:], new], dim=2)
                for old, new in zip(self.layers[index], (k, v), strict=True)
            )
            self.layers[index] = keys, values
            out = F.scaled_dot_product_attention(q, keys, values)
            x = x + block.attention_out(out.transpose(1, 2).flatten(2))
            x = x + block.mlp_out(F.gelu(block.mlp_in(block.mlp_norm(x))))
        return model.heads(x).policy[:, -1]
