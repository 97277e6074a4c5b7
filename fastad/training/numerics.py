"""What decides the bits of a training besides its settings: kept in the run, and kept to."""

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fastad.base.config import Kernels, differences
from fastad.base.device import choose_device
from fastad.model.config import ModelConfig
from fastad.model.kernels import check_kernels, impose_kernels, resolve_kernels

# One process that takes whole batches: as all runs were before there was a choice.
BY_ITSELF = {"ranks": 1, "accumulate": 1, "parallel": "none"}
# Operations that earlier runs do not name, since PyTorch's were the only ones.
LATER_KERNELS = {"embedding": "sdpa"}


@dataclass(frozen=True)
class Numerics:
    """Where and by what a training computes.

    Attributes:
        device: Of the model.
        facts: Device, processor, threads, PyTorch and kernels, as plain values.
        changed: "name: before -> now" for what a resumed run cannot have as it was begun.
    """

    device: torch.device
    facts: dict[str, Any]
    changed: list[str]


def settle(
    model: ModelConfig,
    *,
    kernels: Kernels,
    device: str,
    threads: int | None,
    precision: str,
    begun: dict[str, Any] | None,
    layout: dict[str, Any],
) -> Numerics:
    """Choose device, threads and kernels; as a run was begun, where nobody asks otherwise.

    Args:
        model: Its sizes.
        kernels: Implementation; "auto" takes what the run was begun with.
        device: Name; see `choose_device`.
        threads: None takes as many as the run was begun with.
        precision: "fp32" or "bf16".
        begun: `facts` of when the run was begun; None for a new one.
        layout: How a batch is dealt out, as `BY_ITSELF`.

    Raises:
        UserError: If device or kernels cannot be used here; so too if "auto" was something that
            is not to be had any more.
    """
    if begun is not None and threads is None:
        threads = begun["threads"]
    chosen = choose_device(device, threads)
    if chosen.type == "cpu":
        as_begun = kernels == "auto" and begun is not None and begun["device"] == "cpu"
        impose_kernels(begun["kernels"] if begun is not None and as_begun else {})
    check_kernels(kernels, model, chosen, precision, dropout=model.attention_dropout)
    resolved: dict[str, str] = {}
    if model.trunk == "transformer":
        resolved = resolve_kernels(
            kernels, width=model.width, head_dim=model.head_dim, device=chosen,
            precision=precision, dropout=model.attention_dropout,
        )  # fmt: skip
    facts = {
        "device": chosen.type,
        "processor": _processor(chosen),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "kernels": resolved,
        **layout,
    }
    if begun is None:
        return Numerics(chosen, facts, [])
    of_begun = begun["kernels"] and {**LATER_KERNELS, **begun["kernels"]}
    changed = differences({**BY_ITSELF, **begun, "kernels": of_begun}, facts)
    return Numerics(chosen, facts, changed)


def _processor(device: torch.device, info: Path = Path("/proc/cpuinfo")) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = info.read_text().splitlines() if info.exists() else []
    pairs = (line.partition(":") for line in reversed(lines))  # the first processor's stay
    facts = {key.strip(): value.strip() for key, _, value in pairs}
    if "model name" in facts:
        return facts["model name"]
    numbers = (facts.get(key, "") for key in ("CPU implementer", "CPU part"))  # Arm's name
    return " ".join([platform.processor() or platform.machine(), *filter(None, numbers)])
