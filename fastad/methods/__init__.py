"""What is learnt from what."""
