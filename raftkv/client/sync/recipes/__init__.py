# Made by scripts/generate_sync.py from raftkv/client/aio: edit that.
"""The recipes, one per module: locks, elections, queues and what else is made of keys."""
