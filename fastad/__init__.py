"""Algorithm Distillation: learning histories in, in-context reinforcement learning out."""

__version__ = "0.1.0"
