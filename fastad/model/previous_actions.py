"""From the previous action to features, by the kind of action."""

import torch
from torch import Tensor, nn

from fastad.actions import ActionDistribution, Categorical, DiagonalGaussian, MultiCategorical
from fastad.model.kernels import Implementation, projection
from fastad.model.terms import Rows


class ChoiceEncoder(nn.Embedding):
    """A row for each of several actions, and a last one for none; see `term`."""

    def term(self, action: Tensor, factor: Tensor | None, impl: Implementation) -> Rows:
        """Of actions (B, T), times a number (B, T) if one is given."""
        return Rows.one(self.weight, action, factor)


class ChoicesEncoder(nn.Module):
    """A table like that for each of several choices, summed.

    Args:
        sizes: Of the choices.
        width: Of a feature.
    """

    offsets: Tensor

    def __init__(self, sizes: list[int], width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(sum(sizes) + len(sizes), width)
        firsts = torch.tensor([0, *(size + 1 for size in sizes[:-1])]).cumsum(dim=0)
        self.register_buffer("offsets", firsts, persistent=False)

    def term(self, action: Tensor, factor: Tensor | None, impl: Implementation) -> Rows:
        """Of actions (B, T, choices), times a number (B, T) if one is given."""
        return Rows(self.table.weight, action.long() + self.offsets, factor)


class BoxEncoder(nn.Module):
    """A linear map of the place in the box, or a row for none.

    Args:
        actions: Whose box.
        width: Of a feature.
    """

    def __init__(self, actions: DiagonalGaussian, width: int) -> None:
        super().__init__()
        self.actions = actions
        self.none = nn.Embedding(1, width)
        self.linear = nn.Linear(actions.shape[0], width)

    def term(self, action: Tensor, factor: Tensor | None, impl: Implementation) -> Tensor:
        """Features (B, T, width) of actions (B, T, d), times a number (B, T) if one is given.

        Here alone is a product, for which there is a choice.
        """
        place = self.actions.in_half_widths(action.nan_to_num())
        features = projection(place, self.linear.weight, self.linear.bias, impl=impl)
        features = torch.where(self.actions.is_none(action)[..., None], self.none.weight, features)
        return features if factor is None else factor.unsqueeze(-1) * features


ActionEncoder = ChoiceEncoder | ChoicesEncoder | BoxEncoder


def action_encoder(actions: ActionDistribution, width: int) -> ActionEncoder:
    """Choose how previous actions become features, none included."""
    if isinstance(actions, Categorical):
        return ChoiceEncoder(actions.num_params + 1, width)
    if isinstance(actions, MultiCategorical):
        return ChoicesEncoder(actions.sizes, width)
    assert isinstance(actions, DiagonalGaussian)
    return BoxEncoder(actions, width)
