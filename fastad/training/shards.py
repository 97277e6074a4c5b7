"""Parts of tensors that several processes hold between them, and whole ones.

A part is a `torch.distributed.tensor.DTensor`, which takes seconds to import: nothing here does
before there is one. Tensors of other kinds pass as they are.
"""

from torch import Tensor


def is_part(tensor: Tensor) -> bool:
    """Whether other ranks hold the rest of it."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """All of it; every rank has to ask."""
    full: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full


def part_as(tensor: Tensor, like: Tensor) -> Tensor:
    """Of a whole tensor that every rank has, the part that this one holds of `like`."""
    if not is_part(like):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(
        tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None
    )
