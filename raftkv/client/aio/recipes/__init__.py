"""The recipes, one per module: locks, elections, queues and what else is made of keys."""
