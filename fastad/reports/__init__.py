"""One page on runs: how they learn in context, replayed, and what they attend to."""
