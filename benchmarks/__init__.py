"""The benchmark suite, run by `fastad bench`."""
