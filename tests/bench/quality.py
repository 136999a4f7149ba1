"""What quantizing costs: `.venv/bin/python -m tests.bench.quality [--plot FILE.svg]`.

First the embedded models, on what training never showed, in each weight format: perplexity of the
generator's answers, how often its likeliest token is that of bfloat16, and what the classifiers get
right; and the generator with its head in 4 bits as well. Then random weights in the shapes of
Phi-3-mini: the relative RMS error of each projection, beside llama.cpp's formats on the same
weights. Prints the tables kept in tests/bench/results/quality.md.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import torch
from torch import Tensor

from phi3svc import ops
from phi3svc.bench.axis import Axis
from phi3svc.bench.svg import add_panel, add_text, new_picture, to_text
from phi3svc.config.checkpoint import resolve_source
from phi3svc.model.loader import load_network
from phi3svc.model.network import Network
from phi3svc.model.quantization import choose_format
from phi3svc.ops import PackedLinear
from tests.bench.ggml_formats import ggml_formats
from tests.bench.held_out import Answers, answers, entity_f1, sentiment_accuracy

FORMATS = ("int8", "int4-g32-min", "int4-g32", "int4-g128-min", "int4-g128")
NUM_DIALOGUES, NUM_REVIEWS, NUM_PASSAGES = 600, 1200, 600
NUM_ROWS = 1024
"""Of each projection; all rows are alike."""
SHAPES = {"qkv": 3072, "o": 3072, "gate_up": 3072, "down": 8192, "lm_head": 3072}
SUPER_WEIGHTS = ((525, 808), (1693 - NUM_ROWS, 808), (1113 - NUM_ROWS, 808))
SUPER_WEIGHT = 100.0

Round = Callable[[Tensor], Tensor]


def packed_weights(network: Network) -> Iterator[PackedLinear]:
    """All of a network's, a tied one once."""
    holders = [*network.weights.layers, network.weights]
    for holder in holders:
        for field in dataclasses.fields(holder):
            value = getattr(holder, field.name)
            if isinstance(value, PackedLinear) and field.name != "embedding":
                yield value


def bits_per_weight(network: Network) -> float:
    weights = list(packed_weights(network))
    num_weights = sum(w.out_features * w.in_features for w in weights)
    return 8 * sum(w.data.nbytes for w in weights) / num_weights


def print_embedded() -> None:
    folders = [resolve_source(name).path for name in ("demo", "demo-sentiment", "demo-entities")]
    print("| weights | bits | perplexity | same token | sentiment | entities |")
    print("| --- | --- | --- | --- | --- | --- |")
    exact = answers(load_network(folders[0], "bfloat16"), NUM_DIALOGUES)
    for name in ("bfloat16", *FORMATS):
        chat, sentiment, entities = (load_network(folder, name) for folder in folders)
        accuracy, f1 = sentiment_accuracy(sentiment, NUM_REVIEWS), entity_f1(entities, NUM_PASSAGES)
        text = f"{_of_answers(name, chat, exact)} {100 * accuracy:.2f}% | {100 * f1:.2f}% |"
        print(text, flush=True)
    for name in FORMATS[1:3]:
        chat = load_network(folders[0], f"{name}-head4")
        print(f"{_of_answers(f'{name}, the head too', chat, exact)} | |", flush=True)


def _of_answers(name: str, network: Network, exact: Answers) -> str:
    said = answers(network, NUM_DIALOGUES)
    return (
        f"| {name} | {bits_per_weight(network):.2f} | {said.perplexity:.4f} | "
        f"{100 * said.agreement(exact):.2f}% |"
    )


def _round_as(name: str, weight: Tensor) -> Tensor:
    return ops.unpack_linear(ops.pack_linear(weight, name))


def roundings(num_columns: int) -> dict[str, tuple[float, Round]]:
    """Bits per weight, and the rounding, of every format."""
    found: dict[str, tuple[float, Round]] = {}
    for name in FORMATS:
        shape, dtype = ops.packed_shape(NUM_ROWS, num_columns, name)
        bits = 8 * torch.empty(shape, dtype=dtype, device="meta").nbytes / (NUM_ROWS * num_columns)
        found[name] = (bits, lambda weight, name=name: _round_as(name, weight))  # type: ignore[misc]
    return found | ggml_formats()


def gaussian(name: str) -> Tensor:
    """[NUM_ROWS, k] float32."""
    return torch.randn(NUM_ROWS, SHAPES[name], generator=torch.Generator().manual_seed(0))


def heavy_tailed(name: str) -> Tensor:
    """Student's t with 5 degrees of freedom: kurtosis 9, and weights of 20 deviations."""
    generator = torch.Generator().manual_seed(1)
    normal = torch.randn(6, NUM_ROWS, SHAPES[name], generator=generator)
    return normal[0] / normal[1:].square().mean(0).sqrt()


def super_weights(name: str) -> Tensor:
    """Normal, and in `down` three weights as layer 2 of Phi-3-mini has them."""
    weight = gaussian(name)
    for row, column in SUPER_WEIGHTS if name == "down" else ():
        weight[row, column] = SUPER_WEIGHT
    return weight


KINDS = {
    "Normal weights": gaussian,
    "Heavy-tailed weights": heavy_tailed,
    "Normal weights and three super weights": super_weights,
}


def relative_error(weight: Tensor, rounded: Tensor) -> float:
    return float((rounded - weight).norm() / weight.norm())


def worst_row(weight: Tensor, rounded: Tensor) -> float:
    """The measure of `model/quantization.py`."""
    errors = (rounded - weight).square().mean(1).sqrt() / weight.abs().mean(1)
    return float(errors.max())


def print_random() -> dict[str, tuple[float, float]]:
    """Also returns, by format, bits and error of normally distributed weights."""
    points: dict[str, tuple[float, float]] = {}
    for kind, draw in KINDS.items():
        print(f"\n{kind}:\n")
        print(f"| format | bits | {' | '.join(SHAPES)} | worst row of down | served as |")
        print(f"| --- | --- |{' --- |' * len(SHAPES)} --- | --- |")
        weights = {name: draw(name) for name in SHAPES}
        worst: dict[str, float] = {}
        for name, (bits, rounding) in roundings(SHAPES["qkv"]).items():
            rounded = {shape: rounding(weight) for shape, weight in weights.items()}
            errors = [relative_error(weights[shape], rounded[shape]) for shape in SHAPES]
            worst[name] = worst_row(weights["down"], rounded["down"])
            points.setdefault(name, (bits, errors[0]))
            row = " | ".join(f"{error:.4f}" for error in errors)
            served = served_as(name, worst) if name in FORMATS else ""
            print(f"| {name} | {bits:.2f} | {row} | {worst[name]:.3f} | {served} |", flush=True)
    return points


def served_as(format: str, worst: dict[str, float]) -> str:
    """What `model/quantization.py` makes of a weight with these errors, asked for `format`."""
    while format in FORMATS:
        better = choose_format(format, torch.tensor([worst[format]]))
        if better == format:
            break
        format = better
    return format


def plot(points: dict[str, tuple[float, float]]) -> str:
    """Error over bits, as an SVG file's text."""
    root = new_picture(640, 420)
    add_text(root, 24, 28, "Relative RMS error of normal weights", font_size="14")
    x = Axis(3.0, 9.0, 72, 616)
    y = Axis(0.0, 0.11, 372, 64)
    add_panel(root, x, y, (), title="", x_label="bits per weight", y_label="relative RMS error")
    for name, (bits, error) in points.items():
        place = x.place(bits), y.place(error)
        is_ours = name in FORMATS
        color = "#0072b2" if is_ours else "#d55e00"
        spot = {"cx": f"{place[0]:.1f}", "cy": f"{place[1]:.1f}", "r": "4", "fill": color}
        ET.SubElement(root, "circle", spot)
        anchor, gap = ("end", -8) if is_ours else ("start", 8)
        add_text(root, place[0] + gap, place[1] + 4, name, anchor=anchor)
    return to_text(root)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", type=Path, metavar="FILE.svg")
    args = parser.parse_args()
    print_embedded()
    points = print_random()
    if args.plot:
        args.plot.write_text(plot(points))


if __name__ == "__main__":
    main()
