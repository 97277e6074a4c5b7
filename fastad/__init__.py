"""Algorithm Distillation: learning histories in, in-context reinforcement learning out.

Importing fastad registers its environments with Gymnasium; it does not import torch.
"""

import fastad.envs  # noqa: F401  registers

__version__ = "0.1.0"
