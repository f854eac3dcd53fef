"""Recorded machines: what the commands of a real one print, one TOML file each (recorded.py)."""
