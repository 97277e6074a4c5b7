"""What defines a model, apart from the spaces it reads and acts in."""

from dataclasses import dataclass, fields
from typing import Literal

from fastad.base.errors import UserError

# What a GRU has no use for.
OF_TRANSFORMERS = frozenset(
    ("num_heads", "num_kv_heads", "mlp_width", "context", "positions", "rope_base", "norm",
     "dropout", "attention_dropout")
)  # fmt: skip


@dataclass(frozen=True)
class ModelConfig:
    """A causal transformer over learning histories, or a GRU."""

    trunk: Literal["transformer", "gru"] = "transformer"
    """transformer: attention over the context. gru: gated recurrent units, whose state is all that
    they remember; they have no context, positions, heads or MLP."""
    num_layers: int = 2
    """Blocks. Two are enough for grid worlds; more are slower and, in minutes, no better."""
    width: int = 64
    """Features per token."""
    num_heads: int = 4
    """Query heads; each is width / num_heads wide."""
    num_kv_heads: int | None = None
    """Key/value heads shared by groups of query heads (default: as many as query heads)."""
    mlp_width: int | None = None
    """Hidden features of the MLP (default: 4 * width)."""
    context: int = 200
    """Attention window W in tokens: what a query may see, itself included. In the fused layout a
    step is one token, in the interleaved layout three, in the unordered two. A rollout may take
    another."""
    positions: Literal["none", "rope", "alibi", "learned"] = "none"
    """How tokens know their place. none: causal order alone, quickest, enough for short contexts.
    rope, alibi: relative, any length. learned: a table of `context` places that cannot slide."""
    rope_base: float = 10_000.0
    """Longest RoPE wavelength over 2 pi, in tokens."""
    layout: Literal["fused", "interleaved", "unordered"] = "fused"
    """fused: one token per step. interleaved: three (action, reward, observation), as in the
    paper's equation; three times the cost. unordered: two, what came of the step before and the
    query for the next action, neither of which tells its place; for method=dpt, which shuffles."""
    episode_step: bool = True
    """Whether the model is told the step within the episode."""
    norm: Literal["pre", "post"] = "pre"
    """LayerNorm before each sublayer (trains stably) or after (as the paper)."""
    dropout: float = 0.0
    """Of embeddings and sublayer outputs, in training."""
    attention_dropout: float = 0.0
    """Of attention weights, in training. Slow on CPUs."""
    token_mask: float = 0.0
    """Probability of hiding a token's content, in training (the paper: 0.3)."""

    def __post_init__(self) -> None:
        """Check the fields against each other."""
        if self.trunk == "gru":
            self._refuse_what_a_gru_lacks()
        for field in ("num_layers", "width", "num_heads", "mlp_width", "context"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise UserError(f"{field}={getattr(self, field)} must be at least 1")
        if self.trunk == "transformer" and self.width % self.num_heads:
            raise UserError(
                f"width={self.width} must be a multiple of num_heads={self.num_heads}; "
                f"try width={self.num_heads * -(-self.width // self.num_heads)}"
            )
        if self.kv_heads < 1 or self.num_heads % self.kv_heads:
            raise UserError(f"num_kv_heads={self.kv_heads} must divide num_heads={self.num_heads}")
        if self.positions == "rope" and self.head_dim % 2:
            raise UserError(
                f"positions=rope needs an even head dim; width / num_heads is {self.head_dim}"
            )
        if self.layout == "unordered" and (self.trunk, self.positions) != ("transformer", "none"):
            other = f"positions={self.positions}" if self.trunk == "transformer" else "trunk=gru"
            raise UserError(
                f"layout=unordered shows steps in no order, and {other} tells them by their order; "
                "use trunk=transformer with positions=none, or another layout"
            )
        if self.context < self.tokens_per_step:
            raise UserError(
                f"context={self.context} must hold at least one step; the {self.layout} layout "
                f"takes {self.tokens_per_step} tokens"
            )
        for field in ("dropout", "attention_dropout", "token_mask"):
            if not 0.0 <= getattr(self, field) < 1.0:
                raise UserError(f"{field}={getattr(self, field)} must be in [0, 1)")
        if not self.rope_base > 0:
            raise UserError(f"rope_base={self.rope_base} must be above 0")

    def _refuse_what_a_gru_lacks(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in OF_TRANSFORMERS and value != field.default:
                raise UserError(
                    f"{field.name}={value} is for trunk=transformer; a GRU has no such thing: "
                    "leave it out"
                )

    @property
    def head_dim(self) -> int:
        """`D`, features per head."""
        return self.width // self.num_heads

    @property
    def kv_heads(self) -> int:
        """`Hkv`, key/value heads."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def are_tokens_placed(self) -> bool:
        """Whether the model is told the positions of its tokens, as numbers."""
        return self.positions in ("rope", "learned")

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one environment step takes."""
        return {"fused": 1, "interleaved": 3, "unordered": 2}[self.layout]
