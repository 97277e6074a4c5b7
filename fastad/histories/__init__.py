"""Learning histories on disk: memory-mapped .npy columns, validated when opened."""
