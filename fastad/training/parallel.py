"""A model made ready to be trained by one process or by several, from outside the model."""

import copy
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from inspect import signature
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastad.acting.steps import Steps
from fastad.model.heads import Output
from fastad.model.sequence_model import SequenceModel
from fastad.training.ranks import Ranks

Layout = Literal["ddp", "fsdp2"]


class Trained:
    """A model in training.

    Args:
        model: Its parameters are the optimisers': parts of them, where ranks share them out.
        forward: The model's, by way of whatever lets ranks exchange gradients.
    """

    # Whether the first gradient of a session differs from those after it, by rounding.
    is_unsettled = False

    def __init__(self, model: SequenceModel, forward: Callable[[Steps], Output]) -> None:
        self.model, self.forward = model, forward

    def exchanging(self, exchange: bool) -> AbstractContextManager[Any]:
        """Forward and backward passes in which ranks exchange gradients, or only add them up."""
        return nullcontext()

    def clip(self, limit: float) -> Tensor:
        """Clip the gradient to a norm; returns the norm it had."""
        parameters = list(self.model.parameters())
        # In one call for all parameters. PyTorch does so by itself on GPUs alone.
        at_once = True if parameters[0].device.type == "cpu" else None
        return torch.nn.utils.clip_grad_norm_(parameters, limit, foreach=at_once)

    def weights(self, *, everywhere: bool = True) -> dict[str, Tensor]:
        """Whole tensors by name; on the first rank at least. Every rank has to ask."""
        return self.model.state_dict()

    def write_to(self, model: SequenceModel, *, everywhere: bool) -> None:
        """Bring the model that acts up to date, if it is another; every rank has to ask."""


class _Replicated(Trained):
    """Every rank has the whole model; gradients are averaged.

    PyTorch puts them together in another order once it has seen a first one, and so adds them up
    in another: a first one of a session that counted would cost a resumed run its bits.
    """

    is_unsettled = True

    def __init__(self, model: SequenceModel, forward: Callable[..., Any]) -> None:
        from torch.nn.parallel import DistributedDataParallel

        assert isinstance(forward, nn.Module)
        # Buffers never change in training. As later versions call it, and earlier ones.
        known = signature(DistributedDataParallel).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        untouched: dict[str, Any] = {name: False}
        self.replica = DistributedDataParallel(forward, **untouched)
        super().__init__(model, self.replica)

    def exchanging(self, exchange: bool) -> AbstractContextManager[Any]:
        """See `Trained.exchanging`."""
        return nullcontext() if exchange else self.replica.no_sync()


class _Sharded(Trained):
    """Every rank has a part of each weight, of its gradient and of its optimiser state."""

    def __init__(self, model: SequenceModel, device: torch.device, size: int) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(device.type, (size,))
        for block in getattr(model.trunk, "blocks", ()):
            fully_shard(block, mesh=mesh)
        self.root: Any = fully_shard(model, mesh=mesh)
        super().__init__(model, self._forward)

    def _forward(self, steps: Steps) -> Output:
        with warnings.catch_warnings():
            # About changes in place of what the model returns; losses make none.
            warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
            output: Output = self.root(steps)
        return output

    def exchanging(self, exchange: bool) -> AbstractContextManager[Any]:
        """See `Trained.exchanging`."""
        self.root.set_requires_gradient_sync(exchange)
        return nullcontext()

    def clip(self, limit: float) -> Tensor:
        """See `Trained.clip`."""
        parameters = list(self.model.parameters())
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm: Any = torch.nn.utils.get_total_norm(gradients)
        norm = norm.full_tensor()  # each rank has a part of it
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
        whole_norm: Tensor = norm
        return whole_norm

    def weights(self, *, everywhere: bool = True) -> dict[str, Tensor]:
        """See `Trained.weights`."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=not everywhere)
        whole: dict[str, Any] = get_model_state_dict(self.model, options=options)
        return whole

    def write_to(self, model: SequenceModel, *, everywhere: bool) -> None:
        """See `Trained.write_to`."""
        weights = self.weights(everywhere=everywhere)
        if weights:
            model.load_state_dict(weights)


def make_trained(
    model: SequenceModel, ranks: Ranks, *, layout: Layout, compile: bool, acts: bool
) -> Trained:
    """Let the ranks train a model between them.

    Args:
        model: The same on every rank from now on: that of the first. Names of parameters stay
            what they are. With "fsdp2" a copy of it is trained, which `Trained.write_to` brings
            back.
        ranks: Who trains; one alone trains the model as it is.
        layout: "ddp": each has the whole model. "fsdp2": each has a part, block by block.
        compile: Whether forward and backward passes are compiled.
        acts: Whether the model acts on every rank; else the first alone keeps it beside its part.
    """
    if ranks.size == 1:
        return Trained(model, torch.compile(model) if compile else model)
    ranks.give(list(model.state_dict().values()))
    if layout == "ddp":
        return _Replicated(model, torch.compile(model) if compile else model)
    part = copy.deepcopy(model)
    if compile:
        # Blocks one by one: what gathers their weights stands between them.
        for block in getattr(part.trunk, "blocks", ()):
            block.compile()
    device = next(model.parameters()).device
    if not (acts or ranks.is_first):
        model.to("meta")
    return _Sharded(part, device, ranks.size)
