"""The decoder that is trained on learning histories."""
