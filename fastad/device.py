"""Which device works, and how many CPU threads."""

import torch

from fastad.errors import UserError


def choose_device(name: str, threads: int | None = None) -> torch.device:
    """Resolve "auto", "cpu", "cuda", ... to a device that exists.

    Args:
        name: "auto" takes a GPU if there is one.
        threads: CPU threads for PyTorch; None leaves its default.

    Raises:
        UserError: If the device is not there.
    """
    if threads is not None:
        if threads < 1:
            raise UserError(f"threads={threads} must be at least 1")
        torch.set_num_threads(threads)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device={name} cannot be used ({reason}); try auto or cpu") from error
    return device
