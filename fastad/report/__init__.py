"""What people see of a run: replays, attention, pages."""
