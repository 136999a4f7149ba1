"""The training loop: Muon for the matrices, AdamW for the rest, a trapezoid of learning rates."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from phi3svc.embedded.training.batches import Batch

MUON_LR = 0.02
ADAMW_LR = 0.004


@dataclass(frozen=True)
class Progress:
    """Where a run stands; loss is a running mean in nats."""

    step: int
    num_steps: int
    loss: float
    tokens_per_s: float
    eta_s: float


def learning_rate_scale(step: int, num_steps: int) -> float:
    """Warm up over 50 steps, hold, and go down to zero over the last half."""
    return min(1.0, (step + 1) / 50, max(0.0, (num_steps - step) / (num_steps * 0.5)))


def make_optimizers(model: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon orthogonalises what maps features to features; embeddings, heads and norms are AdamW's."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim == 2 and "layers." in name
        (matrices if is_matrix else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=MUON_LR, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(others, lr=ADAMW_LR, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def fit(
    model: nn.Module,
    batches: Iterator[Batch],
    loss_of: Callable[[nn.Module, Batch], Tensor],
    num_steps: int,
    report: Callable[[Progress], None],
) -> None:
    """Trains `model` in place for `num_steps` batches, reporting every 50 steps."""
    optimizers = make_optimizers(model)
    base_rates = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    model.train()
    mean_loss, num_tokens, started = 0.0, 0, time.monotonic()
    for step in range(num_steps):
        batch = next(batches)
        loss = loss_of(model, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, rate in zip(optimizers, base_rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * learning_rate_scale(step, num_steps)
            optimizer.step()
            optimizer.zero_grad()
        num_tokens += batch.token_ids.numel()
        mean_loss += (loss.item() - mean_loss) / min(step + 1, 50)
        if (step + 1) % 50 == 0 or step + 1 == num_steps:
            elapsed = time.monotonic() - started
            eta = elapsed / (step + 1) * (num_steps - step - 1)
            report(Progress(step + 1, num_steps, mean_loss, num_tokens / elapsed, eta))
    model.eval()
