"""What the options of an action are called, where an action is a choice."""

from fastad.actions import ActionDistribution, Categorical, MultiCategorical
from fastad.envs.family import TaskFamily


def choice_sizes(actions: ActionDistribution) -> tuple[int, ...] | None:
    """How many options each choice of an action has; None for vectors."""
    if isinstance(actions, Categorical):
        return (actions.num_params,)
    return tuple(actions.sizes) if isinstance(actions, MultiCategorical) else None


def choice_names(family: TaskFamily, actions: ActionDistribution) -> tuple[str, ...] | None:
    """The options of all choices, one choice after another; None for vectors."""
    sizes = choice_sizes(actions)
    if sizes is None:
        return None
    if sizes == (len(family.action_names),):
        return family.action_names
    return tuple(str(option) for size in sizes for option in range(size))
