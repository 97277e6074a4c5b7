"""What generates learning histories: RL algorithms that learn each task from scratch."""
