"""One module per engine: `load(path, format_name, num_threads)` gives what workload.py drives."""
