"""Batched tasks in plain torch: bandits and grids, their splits, and Gymnasium adapters.

Importing this package registers the environments with Gymnasium by name alone; torch is imported
when one of them is made.
"""

from fastad.envs.registry import register_envs

register_envs()
