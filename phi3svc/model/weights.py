"""A checkpoint's weights: which there must be, and reading them one at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from phi3svc.config.model import Phi3Config
from phi3svc.config.tensors import FLOAT_DTYPES, TensorInfo, list_tensors
from phi3svc.errors import ConfigError

Progress = Callable[[int, int], None]
"""Called with (bytes read so far, bytes to read) after each tensor."""

EMBEDDING = "model.embed_tokens.weight"
NORM = "model.norm.weight"
LM_HEAD = "lm_head.weight"
SCORE = "score.weight"
SCORE_BIAS = "score.bias"


class WeightReader:
    """Reads tensors by the names of today's transformers, whatever the checkpoint calls them.

    Older token classifiers say `classifier.*` for `score.*`, and a bare Phi3Model leaves out the
    `model.` prefix. All names, shapes and dtypes are checked here, before the first byte is read;
    a tensor that the network does not use (`rotary_emb.inv_freq`, for one) is left alone, as in
    transformers. Raises ConfigError in one line.
    """

    def __init__(self, path: Path, config: Phi3Config, progress: Progress | None = None) -> None:
        found = {_today(name): tensor for name, tensor in list_tensors(path).items()}
        self._tensors: dict[str, TensorInfo] = {}
        for name, shape in expected_shapes(config).items():
            if name in found:
                _check(found[name], shape)
                self._tensors[name] = found[name]
        missing = [name for name in required(config) if name not in self._tensors]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise ConfigError(f"{path}: tensor {missing[0]!r}{more} missing from the checkpoint")
        self._total_bytes = sum(tensor.num_bytes for tensor in self._tensors.values())
        self._done_bytes = 0
        self._progress = progress

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """The tensor `name` as a new tensor of `dtype`.

        It is read, not mapped: a file that shrinks meanwhile is then an error and not a crash, and
        the page cache does not count as this process's memory.
        """
        info = self._tensors[name]
        tensor = torch.empty(info.shape, dtype=getattr(torch, FLOAT_DTYPES[info.dtype]))
        into = tensor.view(-1).view(torch.uint8).numpy().data
        done = 0
        try:
            with info.file.open("rb", buffering=0) as stream:
                stream.seek(info.offset)
                while done < len(into):
                    count = stream.readinto(into[done:])
                    if not count:
                        raise ConfigError(f"{info.file}: ends within tensor {name!r}")
                    done += count
        except OSError as error:
            raise ConfigError(f"{info.file}: {error.strerror}") from None
        self._done_bytes += info.num_bytes
        if self._progress is not None:
            self._progress(self._done_bytes, self._total_bytes)
        return tensor.to(dtype)


def expected_shapes(config: Phi3Config) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a Phi-3 checkpoint may hold and the network uses."""
    hidden, mlp = config.hidden_size, config.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {
        EMBEDDING: (config.vocab_size, hidden),
        NORM: (hidden,),
        LM_HEAD: (config.vocab_size, hidden),
    }
    for i in range(config.num_hidden_layers):
        shapes |= {
            layer_name(i, "input_layernorm"): (hidden,),
            layer_name(i, "self_attn.qkv_proj"): (config.qkv_features, hidden),
            layer_name(i, "self_attn.o_proj"): (
                hidden,
                config.num_attention_heads * config.head_dim,
            ),
            layer_name(i, "post_attention_layernorm"): (hidden,),
            layer_name(i, "mlp.gate_up_proj"): (2 * mlp, hidden),
            layer_name(i, "mlp.down_proj"): (hidden, mlp),
        }
    if config.id2label:
        shapes |= {SCORE: (len(config.id2label), hidden), SCORE_BIAS: (len(config.id2label),)}
    return shapes


def required(config: Phi3Config) -> list[str]:
    """The tensors without which the architecture cannot run."""
    names = [n for n in expected_shapes(config) if n.startswith("model.")]
    if config.task == "generation" and not config.tie_word_embeddings:
        names.append(LM_HEAD)
    if config.task in ("sequence-classification", "token-classification"):
        names.append(SCORE)
    if config.task == "token-classification" and config.token_classification_bias:
        names.append(SCORE_BIAS)
    return names


def layer_name(layer_idx: int, module: str) -> str:
    return f"model.layers.{layer_idx}.{module}.weight"


def _today(name: str) -> str:
    if name.startswith("classifier."):
        return name.replace("classifier.", "score.", 1)
    if name.startswith(("embed_tokens.", "layers.", "norm.")):
        return f"model.{name}"
    return name


def _check(tensor: TensorInfo, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise ConfigError(
            f"{tensor.file}: tensor {tensor.name!r} is {list(tensor.shape)}; "
            f"config.json makes it {list(shape)}"
        )
    if tensor.dtype not in FLOAT_DTYPES:
        raise ConfigError(
            f"{tensor.file}: tensor {tensor.name!r} is {tensor.dtype}; "
            f"expected {', '.join(FLOAT_DTYPES)}"
        )
