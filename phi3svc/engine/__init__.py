"""Scheduling, stepping and serving of models; from `request.py` to `events.py`.

`async_engine.py` is what the service sees. Modules here that import torch: batch, runner, sampler,
core, worker and (through core) local. The others stay importable in the front process, which
never loads torch.
"""
