"""Algorithm Distillation: learning histories in, in-context reinforcement learning out.

Importing fastad registers its environments with Gymnasium; it does not import torch, whose threads
it makes wait without spinning.
"""

from fastad.base.processors import wait_passively

wait_passively()

import fastad.envs  # noqa: E402, F401  registers

__version__ = "0.1.0"
