"""Losses from `labels`, as transformers' `loss/loss_utils.py` defines them, in float32.

What differs: columns that attention_mask leaves out have no logits here, so they have no loss
either. transformers computes something for them, and it counts unless their labels are -100.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from phi3svc.errors import InvalidRequest

IGNORE_INDEX = -100


def causal_lm_loss(
    logits: Tensor,
    labels: Tensor | None,
    mask: Tensor,
    *,
    shift_labels: Tensor | None = None,
    num_items_in_batch: Tensor | float | None = None,
    ignore_index: int = IGNORE_INDEX,
) -> Tensor:
    """Cross entropy of each column's logits [B, S, V] with the next column's label, [B, S].

    shift_labels: [B, S], in place of labels: the label of each column's own logits. mask: bool
    [B, S], which columns have logits. num_items_in_batch: the sum is divided by it, and otherwise
    by the number of labels that are not ignore_index.
    """
    if shift_labels is None:
        assert labels is not None
        targets = _class_labels("labels", labels, logits.shape[:2], logits.shape[2], ignore_index)
        targets = functional.pad(targets, (0, 1), value=ignore_index)[:, 1:]
    else:
        targets = _class_labels(
            "shift_labels", shift_labels, logits.shape[:2], logits.shape[2], ignore_index
        )
    targets = targets.to(logits.device).masked_fill(~mask.to(logits.device), ignore_index)
    reduction = "mean" if num_items_in_batch is None else "sum"
    loss = functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=ignore_index, reduction=reduction
    )
    if num_items_in_batch is None:
        return loss
    if isinstance(num_items_in_batch, Tensor):
        num_items_in_batch = num_items_in_batch.to(loss.device)
    return loss / num_items_in_batch


def token_classification_loss(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Cross entropy of logits [B, S, C] with labels [B, S], where they are not -100."""
    targets = _class_labels("labels", labels, logits.shape[:2], logits.shape[2], IGNORE_INDEX)
    targets = targets.to(logits.device).masked_fill(~mask.to(logits.device), IGNORE_INDEX)
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def sequence_classification_loss(
    logits: Tensor, labels: Tensor, problem_type: str | None
) -> Tensor:
    """Of logits [B, C]. problem_type None: from C and the labels' dtype.

    "regression" (C = 1): mean squared error with labels [B] or [B, C];
    "single_label_classification" (integer labels): cross entropy with labels [B];
    "multi_label_classification": binary cross entropy with labels [B, C].
    """
    _require_tensor("labels", labels)
    labels = labels.to(logits.device)
    num_rows, num_labels = logits.shape
    if problem_type is None:
        if num_labels == 1:
            problem_type = "regression"
        elif labels.dtype in (torch.int32, torch.int64):
            problem_type = "single_label_classification"
        else:
            problem_type = "multi_label_classification"
    if problem_type == "single_label_classification":
        shape = torch.Size([num_rows])
        if labels.shape == (num_rows, 1):
            labels = labels.flatten()
        return functional.cross_entropy(
            logits, _class_labels("labels", labels, shape, num_labels, IGNORE_INDEX)
        )
    if num_labels == 1 and labels.shape == (num_rows,):
        labels = labels[:, None]
    if labels.shape != logits.shape:
        raise InvalidRequest.of(
            "labels", f"is {list(labels.shape)}; expected {list(logits.shape)} for {problem_type}"
        )
    if problem_type == "regression":
        return functional.mse_loss(logits, labels.float())
    return functional.binary_cross_entropy_with_logits(logits, labels.float())


def _class_labels(
    field: str, labels: Tensor, shape: torch.Size, num_classes: int, ignore_index: int
) -> Tensor:
    """int64 labels, each a class or to be ignored; else InvalidRequest."""
    _require_tensor(field, labels)
    if labels.shape != shape or labels.is_floating_point() or labels.dtype == torch.bool:
        raise InvalidRequest.of(
            field, f"{labels.dtype} {list(labels.shape)}; expected integers {list(shape)}"
        )
    labels = labels.long()
    wrong = (labels != ignore_index) & ((labels < 0) | (labels >= num_classes))
    if wrong.any():
        raise InvalidRequest.of(
            field,
            f"{int(labels[wrong][0])}: must be 0 to {num_classes - 1}, or {ignore_index} for none",
        )
    return labels


def _require_tensor(field: str, labels: object) -> None:
    if not isinstance(labels, Tensor):
        raise InvalidRequest.of(field, f"is a {type(labels).__name__}; expected a tensor")
