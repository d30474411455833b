"""Benchmarks of the codec and of its parts."""
