"""What runs on every machine: the keeper, which holds, and the agent, which decides."""
