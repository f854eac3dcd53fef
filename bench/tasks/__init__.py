"""The verbs by subject; tasks.py at the top level puts them together."""
