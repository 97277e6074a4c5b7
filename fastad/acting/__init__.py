"""What the model is shown, and the one loop in which anything acts."""
