"""The frozen model acting on tasks."""
