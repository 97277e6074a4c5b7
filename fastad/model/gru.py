"""A trunk of the model: gated recurrent units, which carry all they remember in a state."""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence, unpack_sequence

from fastad.model.config import ModelConfig


class GRU(nn.Module):
    """A trunk: layers of gated recurrent units (Cho et al. 2014, arXiv 1406.1078).

    Args:
        config: Of the model.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layers = nn.GRU(config.width, config.width, config.num_layers, batch_first=True)

    def forward(self, tokens: Tensor, state: Tensor | None, bounds: Tensor | None = None) -> Tensor:
        """Map tokens (B, T, width) to features of the same shape; each sees those before it.

        Args:
            tokens: Whole sequences, or what follows the tokens that `state` was carried through.
            state: As `make_state` gave it; carried on through the tokens, in place.
            bounds: Where contexts of their own begin and end in all rows' tokens one after another,
                (contexts + 1,); each is carried through from nothing. None: each row is one.
        """
        if bounds is not None:
            contexts = tokens.flatten(0, 1).split(bounds.diff().tolist())
            packed, _ = self.layers(pack_sequence(contexts, enforce_sorted=False))
            return torch.cat(unpack_sequence(packed)).view_as(tokens)
        features, carried = self.layers(tokens, state)
        if state is not None:
            state.copy_(carried)
        out: Tensor = features
        return out

    def make_state(self, batch_size: int) -> Tensor:
        """Nothing remembered yet, (num_layers, batch_size, width)."""
        like = next(self.parameters())
        shape = (self.layers.num_layers, batch_size, self.layers.hidden_size)
        return torch.zeros(shape, dtype=like.dtype, device=like.device)

    def matrix_names(self) -> list[str]:
        """Parameters that map tokens or states to gates; see `SequenceModel.matrix_names`."""
        return [name for name, parameter in self.named_parameters() if parameter.ndim == 2]
