"""One of two ranks that train in many ways, one after the other: see test_parallel.py.

Each says in OUT/RANK.json how every training ended. The last one rank does not survive.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

import fastad
from fastad.base.errors import UserError
from fastad.base.interrupt import stop_signals
from fastad.base.launched import launched
from fastad.methods.ad import AlgorithmDistillation

MODEL = {"width": 16, "num_layers": 2, "context": 12}
NOISE = {"dropout": 0.1, "attention_dropout": 0.2, "token_mask": 0.1}
AD = {
    **MODEL, **NOISE, "batch_size": 8, "updates": 6, "warmup_updates": 2, "log_every": 1,
    "eval_every": 0, "checkpoint_every": 0,
}  # fmt: skip
ADAMW = {**AD, "optimizer": "adamw"}
RL2 = {
    "method": "rl2", "trunk": "gru", "num_layers": 1, "width": 16, "batch_size": 8, "updates": 4,
    "optimizer": "adamw", "learning_rate": 5e-3, "window": 12, "log_every": 1, "eval_every": 0,
    "checkpoint_every": 0,
}  # fmt: skip
# What one rank does by itself, too; by the name of what it is compared with, its settings.
SAME = {
    "ad": AD,
    "ad-fsdp2": {**AD, "parallel": "fsdp2", "accumulate": 2},
    "adamw": ADAMW,
    "adamw-fsdp2": {**ADAMW, "parallel": "fsdp2"},
    "bf16": {**AD, "precision": "bf16"},
    "rl2": {**RL2, "accumulate": 2},
    "rl2-fsdp2": {**RL2, "parallel": "fsdp2"},
}


def stop_after(updates):
    """A progress report that asks to stop, as Ctrl-C does."""

    def report(done, total, **figures):
        if done >= updates:
            raise KeyboardInterrupt

    return report


def ending(**settings):
    """How a training ends on this rank: what it says, its exit status."""
    try:
        with stop_signals():
            fastad.train(**settings)
    except UserError as error:
        return str(error)
    except KeyboardInterrupt as stop:
        return repr(stop)
    except SystemExit as end:
        return end.code
    return "done"


def main(data, out):
    here, ends = launched(), {}
    common = {"data": data, "overwrite": True}
    for name, settings in SAME.items():
        ends[name] = ending(out=out / name, **common, **settings)
    again = common | {"overwrite": False, "resume": True}
    ends["stopped"] = ending(out=out / "broken", progress=stop_after(3), **again, **AD)
    ends["resumed"] = ending(out=out / "broken", **again, **AD)
    ends["from one"] = ending(out=out / "begun-by-one", **again, **ADAMW, parallel="fsdp2")
    ends["for one"] = ending(
        out=out / "begun-by-two", progress=stop_after(3), **again, **AD, parallel="fsdp2"
    )

    new = common | {"out": out / "refused", **AD}
    ends["seeds"] = ending(**new, seed=here.rank)
    ends["sizes"] = ending(**{**new, "batch_size": 9})
    ends["data"] = ending(**{**new, "data": data if here.rank == 0 else out / "nowhere"})
    ends["contents"] = ending(**{**new, "data": data if here.rank == 0 else out / "other"})

    usual = AlgorithmDistillation.loss, AlgorithmDistillation.batch

    def one_loss_is_nan(method, output, batch):
        loss, figures = usual[0](method, output, batch)
        return loss * (float("nan") if here.rank == 1 else 1.0), figures

    AlgorithmDistillation.loss = one_loss_is_nan
    ends["nan"] = ending(**new | {"out": out / "nan"})
    AlgorithmDistillation.loss = usual[0]

    def at_update_three(number):
        def batch(method, step):
            if step == 3 and here.rank == 1:
                os.kill(os.getpid(), number)
            return usual[1](method, step)

        return batch

    AlgorithmDistillation.batch = at_update_three(signal.SIGTERM)
    ends["terminated"] = ending(**new | {"out": out / "terminated"})
    AlgorithmDistillation.batch = at_update_three(signal.SIGKILL)
    (out / f"{here.rank}.json").write_text(json.dumps(ends))
    ends["killed"] = ending(**new | {"out": out / "killed", "checkpoint_every": 2})
    (out / f"{here.rank}.json").write_text(json.dumps(ends))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
