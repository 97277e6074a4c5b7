"""Learners with networks of their own, thousands at once: one batched product per layer."""
