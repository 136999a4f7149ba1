"""Benchmarks of the CUDA backend; `tests/bench/gpu.sh` runs them and writes one report."""
