"""Benchmarks of the benchmark: what its own method can and cannot tell, measured for real."""
