"""Where idempotent jobs run."""
