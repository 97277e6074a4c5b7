"""The commands: each a frozen dataclass, whose docstrings are the help, and a function."""
