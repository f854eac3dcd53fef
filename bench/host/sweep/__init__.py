"""A matrix of runs from one TOML file, resumable: what is measured already is left alone."""
