"""What the model classes have in common: where they come from, and what scripts ask them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor

from phi3svc.api.config_settings import SETTINGS
from phi3svc.api.configuration import Phi3Config, is_local, with_revision
from phi3svc.api.generation_config import GenerationConfig
from phi3svc.api.memory import require_bytes
from phi3svc.api.module import Module, device_name
from phi3svc.config import model
from phi3svc.config.checkpoint import resolve_source
from phi3svc.config.engine import EngineConfig, packed_cache_folder
from phi3svc.config.json_file import read_json_object
from phi3svc.config.quantization import FLOAT8, SCHEME_NAMES
from phi3svc.config.sizes import size_text
from phi3svc.engine.memory import available_bytes
from phi3svc.errors import ConfigError
from phi3svc.model.device import find_device
from phi3svc.model.loader import build_network, expected_shapes, load_network, required_names
from phi3svc.model.network import Head, Network
from phi3svc.model.packed_cache import PackedCache
from phi3svc.model.packing import PackingSource
from phi3svc.model.random_weights import RandomWeights

_HARMLESS = frozenset(
    {
        "_attn_implementation",
        "attn_implementation",
        "code_revision",
        "experts_implementation",
        "ignore_mismatched_sizes",
        "low_cpu_mem_usage",
        "max_memory",
        "offload_folder",
        "offload_state_dict",
        "resume_download",
        "trust_remote_code",
        "use_flash_attention_2",
        "use_safetensors",
        "weights_only",
    }
)
"""Arguments of transformers that change nothing here: one attention, no code from checkpoints."""

# Of what comes from the hub; a local checkpoint has no use for these.
_INSTEAD = {
    "cache_dir": "set the environment variable HF_HOME",
    "force_download": "remove the snapshot from the hub's cache",
    "local_files_only": "set the environment variable HF_HUB_OFFLINE=1",
    "token": "set the environment variable HF_TOKEN",
    "use_auth_token": "set the environment variable HF_TOKEN",
}


class InputEmbeddings:
    """The input embeddings as a function, for what `inputs_embeds` takes."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.num_embeddings = network.config.vocab_size
        self.embedding_dim = network.config.hidden_size

    def __call__(self, input_ids: Tensor) -> Tensor:
        """[...] token ids to [..., E] in the model's dtype."""
        found = self._network.embed(input_ids.flatten().int())
        return found.to(self._network.dtype).view(*input_ids.shape, self.embedding_dim)


class PretrainedModel(Module):
    """A network, read from a checkpoint or of random weights, for inference.

    config: its settings may be assigned; name_or_path: the checkpoint's folder, "" if there is
    none; generation_config: what `generate` starts from.
    """

    head: ClassVar[Head | None]
    main_input_name: ClassVar[str] = "input_ids"
    base_model_prefix: ClassVar[str] = "model"

    config: Phi3Config
    name_or_path: str
    generation_config: GenerationConfig

    def __init__(self, config: model.Phi3Config) -> None:
        """Random weights: normal with `initializer_range`, norms 1, biases 0.

        Drawn from torch's generator, and of torch's default dtype. Raises ConfigError if they would
        not fit into memory.
        """
        dtype = torch.get_default_dtype()
        config = _for_class(config, type(self).__name__, self.head)
        num_bytes = config.num_params * dtype.itemsize
        free_bytes = available_bytes()
        if num_bytes > free_bytes:
            raise ConfigError(
                f"{type(self).__name__}: {size_text(num_bytes)} of weights; "
                f"{size_text(free_bytes)} are free"
            )
        weights = RandomWeights(config, required_names(config), expected_shapes(config))
        source = PackingSource(weights, str(dtype).removeprefix("torch."))
        self._hold(build_network(config, source), "")

    @classmethod
    def from_config(cls, config: model.Phi3Config) -> Self:
        """What the constructor makes; transformers' Auto classes have this name for it."""
        return cls(config)

    @classmethod
    def from_network(cls, network: Network, name_or_path: str = "") -> Self:
        """A model of this class on a loaded network. name_or_path: the checkpoint's folder."""
        if cls.head is not None and cls.head not in network.heads:
            has = ", ".join(sorted(network.heads)) or "none"
            raise ConfigError(f"{name_or_path}: has no {cls.head} head; its heads: {has}")
        made = cls.__new__(cls)
        made._hold(network, name_or_path)
        return made

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        dtype: str | torch.dtype | None = "auto",
        device: int | str | torch.device = "cpu",
        quantization: str | None = None,
        *,
        torch_dtype: str | torch.dtype | None = None,
        device_map: object = None,
        revision: str | None = None,
        config: object = None,
        packed_cache: str | Path = EngineConfig.packed_cache,
        **others: object,
    ) -> Self:
        """Load a checkpoint.

        source: local folder, embedded model or hub id (`resolve_source`); dtype: "auto" (the
        checkpoint's), "float32" or "bfloat16", or torch's; device: "cpu", "cuda" or "cuda:1", where
        outputs are then, too, or -1, 0 or 1, as in `pipeline`; quantization: what linear weights
        are rounded to, "int8", "int4" or one of its formats ("int4-g128") on a CPU, "fp8" on CUDA,
        None for what the checkpoint has; where they are, the model computes in bfloat16, and that
        is its dtype.
        packed_cache: where weights are kept as they are served, "auto", "off" or a folder
        (`EngineConfig`). The rest is transformers': torch_dtype is dtype; device_map may be "auto",
        for device, or one device; revision is a hub id's; config is the checkpoint's, with settings
        that go before it; so do problem_type, use_cache, id2label and whatever else a config lets
        be assigned; others change nothing here, or are refused. Raises ConfigError, also when the
        checkpoint lacks the head of this class: nothing is initialised at random.
        """
        where = _find_device(device, device_map)
        settings = {n: v for n, v in others.items() if n in SETTINGS and v is not None}
        ignored = {*SETTINGS, *_HARMLESS, *(_INSTEAD if is_local(source) else ())}
        _check_others({n: v for n, v in others.items() if n not in ignored})
        weights_dtype = _weights_dtype(torch_dtype or dtype, quantization)
        folder = packed_cache_folder(packed_cache, "packed_cache")
        cache = None if folder is None else PackedCache(folder, EngineConfig.packed_cache_bytes)
        path = resolve_source(with_revision(source, revision)).path
        if weights_dtype == "bfloat16" and model.Phi3Config.from_dir(path).quantization is not None:
            weights_dtype = "auto"  # what a quantized checkpoint's model computes in
        network = load_network(path, weights_dtype, cache=cache, device=where)
        made = cls.from_network(network, str(path))
        if config is not None:
            made.config = made.config.with_settings_of(config)
        made.config.update(settings)
        return made

    def num_parameters(self, *, exclude_embeddings: bool = False) -> int:
        """Weights of this class's part of the checkpoint, tied ones counted once."""
        config = _for_class(self.config, type(self).__name__, self.head)
        num_excluded = config.vocab_size * config.hidden_size if exclude_embeddings else 0
        return config.num_params - num_excluded

    def can_generate(self) -> bool:
        """Whether there is a `generate`."""
        return hasattr(self, "generate")

    def get_input_embeddings(self) -> InputEmbeddings:
        return InputEmbeddings(self.network)

    def _zeros(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """For outputs, where the model is. Raises InvalidRequest if memory does not hold them."""
        num_bytes = torch.Size(shape).numel() * dtype.itemsize
        what = f"outputs of {' x '.join(map(str, shape))} numbers"
        require_bytes("input_ids", num_bytes, what, self.network.device)
        return torch.zeros(shape, dtype=dtype, device=self.network.device)

    def _hold(self, network: Network, name_or_path: str) -> None:
        self.network = network
        self.name_or_path = name_or_path
        if name_or_path:
            said = read_json_object(Path(name_or_path) / "config.json")
            self.config = Phi3Config.of(network.config, said | {"name_or_path": name_or_path})
            self.generation_config = GenerationConfig.from_dir(Path(name_or_path), network.config)
        else:
            self.config = Phi3Config.of(network.config)
            self.generation_config = GenerationConfig.from_model_config(network.config)


def _for_class(config: model.Phi3Config, architecture: str, head: Head | None) -> Phi3Config:
    """The config of a checkpoint whose architecture is that class."""
    if config.small is not None:
        architecture = architecture.replace("Phi3", "Phi3Small", 1)
    labels = config.labels
    if head not in (None, "generation"):
        labels = labels or ("LABEL_0", "LABEL_1")
    return Phi3Config.of(config).updated(
        architecture=architecture, task=head or "hidden-states", labels=labels
    )


def _find_device(device: object, device_map: object) -> torch.device:
    """The one device that both arguments mean. Raises ConfigError if there are several."""
    wanted = list(device_map.values()) if isinstance(device_map, dict) else [device_map]
    named = {_indexed_name(one) for one in wanted if one not in (None, "auto")}
    if len(named) > 1 or (named and _indexed_name(device) not in ("cpu", *named)):
        raise ConfigError(f"device_map={device_map!r}: must be auto or one device, {device}")
    return find_device(named.pop(), "device_map") if named else find_device(device_name(device))


def _indexed_name(device: object) -> str:
    """One name for every way of naming a device."""
    name = device_name(device)
    return "cuda:0" if name == "cuda" else name


def _weights_dtype(dtype: str | torch.dtype | None, quantization: str | None) -> str:
    """What `load_network` is to make of both arguments."""
    name = str(dtype or "auto").removeprefix("torch.")
    if quantization is None:
        return name
    names = (*SCHEME_NAMES, FLOAT8)
    if not isinstance(quantization, str) or quantization not in names:
        raise ConfigError(
            f"quantization={quantization!r}: must be one of {', '.join(names)}, or None"
        )
    if name not in ("auto", "bfloat16"):
        raise ConfigError(
            f"dtype={name!r}: must be auto or bfloat16 where quantization is {quantization!r}"
        )
    return quantization


def _check_others(others: Mapping[str, object]) -> None:
    for name in sorted(others):
        if others[name] not in (None, False):
            hint = _INSTEAD.get(name, "not an argument that this package knows")
            raise ConfigError(f"from_pretrained: {name}: {hint}")
