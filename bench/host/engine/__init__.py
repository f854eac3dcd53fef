"""Engines: where a job runs, and how the Docker engine is found."""
