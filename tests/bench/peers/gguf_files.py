"""llama.cpp's files: `python -m tests.bench.peers.gguf_files CHECKPOINT OUT bf16|q8_0|q4_0`.

Runs in the peers' environment. llama.cpp's own converter is a script of its repository and on no
index, so the GGUF is written here, with the package that it uses; llama.cpp itself quantizes.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

import gguf
import llama_cpp
import torch
from safetensors import safe_open

from tests.bench.peers import checkpoint

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
FILE_TYPES = {
    "q8_0": (llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, gguf.GGMLQuantizationType.Q8_0),
    "q4_0": (llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, gguf.GGMLQuantizationType.Q4_0),
}


def write_bf16(path: Path, out: Path) -> None:
    """The weights as they are; norms in float32, as llama.cpp wants them."""
    index = json.loads((path / "model.safetensors.index.json").read_text())["weight_map"]
    num_layers = json.loads((path / "config.json").read_text())["num_hidden_layers"]
    writer = gguf.GGUFWriter(out, "phi3")
    writer.add_context_length(checkpoint.CONTEXT)
    writer.add_embedding_length(checkpoint.HIDDEN)
    writer.add_feed_forward_length(checkpoint.MLP)
    writer.add_block_count(num_layers)
    writer.add_head_count(checkpoint.HEADS)
    writer.add_head_count_kv(checkpoint.HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(checkpoint.HIDDEN // checkpoint.HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_scaling_orig_ctx_len(checkpoint.CONTEXT)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    # No vocabulary: the benchmark speaks in token ids.
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(checkpoint.VOCAB)
    for name, file in index.items():
        with safe_open(path / file, "pt") as tensors:
            tensor = tensors.get_tensor(name)
        if tensor.ndim == 1:
            writer.add_tensor(_gguf_name(name), tensor.float().numpy())
        else:
            data = tensor.view(torch.uint8).numpy()
            kind = gguf.GGMLQuantizationType.BF16
            writer.add_tensor(_gguf_name(name), data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file(progress=True)
    writer.close()


def quantize(bf16: Path, out: Path, name: str) -> None:
    """Every matrix in the one format: llama.cpp's own recipe would keep the head in Q6_K, which
    its CPU kernels multiply more slowly."""
    file_type, tensor_type = FILE_TYPES[name]
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = file_type
    params.nthread = 2
    params.pure = True
    params.output_tensor_type = tensor_type
    params.token_embedding_type = tensor_type
    failed = llama_cpp.llama_model_quantize(
        str(bf16).encode(), str(out).encode(), ctypes.byref(params)
    )
    if failed:
        raise SystemExit(f"llama.cpp cannot quantize to {name}")


def _gguf_name(name: str) -> str:
    stem = name.removesuffix(".weight")
    if not stem.startswith("model.layers."):
        return f"{NAMES[stem]}.weight"
    _, _, number, rest = stem.split(".", 3)
    return f"blk.{number}.{NAMES[rest]}.weight"


def main() -> None:
    path, out, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    out.mkdir(parents=True, exist_ok=True)
    target = out / "model.gguf"
    if name == "bf16":
        write_bf16(path, target)
        return
    bf16 = out / "bf16.gguf"
    write_bf16(path, bf16)
    quantize(bf16, target, name)
    bf16.unlink()


if __name__ == "__main__":
    main()
