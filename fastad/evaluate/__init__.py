"""Figures and pictures of what a rollout returned."""
