"""Trains the embedded models: `python -m phi3svc.embedded.training.train --out DIR [NAME ...]`."""

from __future__ import annotations

import argparse
import itertools
import json
import random
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import GenerationConfig
from transformers.utils import logging

from phi3svc.embedded.training.batches import bucketed_batches
from phi3svc.embedded.training.card import write_card
from phi3svc.embedded.training.recipe import Recipe, Scores
from phi3svc.embedded.training.recipe_chat import CHAT
from phi3svc.embedded.training.recipe_entities import ENTITIES
from phi3svc.embedded.training.recipe_sentiment import SENTIMENT
from phi3svc.embedded.training.tokenizer import END, save_tokenizer, train_tokenizer
from phi3svc.embedded.training.trainer import Progress, fit

RECIPES = {recipe.name: recipe for recipe in (CHAT, SENTIMENT, ENTITIES)}
NUM_TOKENIZER_TEXTS = 20_000


def print_progress(progress: Progress) -> None:
    """One line per report; plain, so that it reads well in a log too."""
    print(
        f"  step {progress.step:5d}/{progress.num_steps}  loss {progress.loss:.4f}"
        f"  {progress.tokens_per_s:7.0f} tok/s  {progress.eta_s:5.0f} s left",
        flush=True,
    )


def save(recipe: Recipe, model: torch.nn.Module, tokenizer: Tokenizer, out: Path) -> None:
    """Writes the checkpoint in bfloat16 in Hugging Face layout."""
    out.mkdir(parents=True, exist_ok=True)
    model = model.to(torch.bfloat16)
    end_of_text = model.config.pad_token_id
    if recipe.is_chat:
        stop_ids = [end_of_text, tokenizer.token_to_id(END)]
        model.generation_config = GenerationConfig(
            bos_token_id=1, eos_token_id=stop_ids, pad_token_id=end_of_text
        )
    model.save_pretrained(out)
    if not recipe.is_chat:
        generation = {"_from_model_config": True, "eos_token_id": end_of_text}
        (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    save_tokenizer(tokenizer, out, model.config.max_position_embeddings, recipe.is_chat)


def train(recipe: Recipe, out: Path, seed: int, num_steps: int) -> Scores:
    """Trains one model into the folder `out` and returns its held-out scores after rounding."""
    started = time.monotonic()
    torch.manual_seed(seed)
    texts = itertools.islice(recipe.texts(seed), NUM_TOKENIZER_TEXTS)
    tokenizer = train_tokenizer(texts, recipe.vocab_size)
    model = recipe.model_class(recipe.config(tokenizer))
    config = model.config
    num_params = sum(parameter.numel() for parameter in model.parameters())
    print(f"{recipe.name}: {num_params / 1e6:.2f} M parameters, {num_steps} steps", flush=True)
    batches = bucketed_batches(
        recipe.rows(tokenizer, seed + 1),
        pad_id=config.pad_token_id,
        original_len=recipe.original_len,
        tokens_per_batch=recipe.tokens_per_batch,
        rng=random.Random(seed + 2),
    )
    fit(model, batches, recipe.loss, num_steps, print_progress)
    save(recipe, model, tokenizer, out)
    reloaded = recipe.model_class.from_pretrained(out, dtype="auto").eval()
    scores = recipe.score(reloaded, tokenizer)
    write_card(recipe, out, seed, num_steps, num_params, scores)
    print(f"{recipe.name}: done in {time.monotonic() - started:.0f} s", flush=True)
    for name, value in scores.items():
        print(f"  {name:28s} {value:.4f}", flush=True)
    return scores


def main() -> None:
    """Parses the command line and trains the models it names, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(RECIPES)}")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoints")
    parser.add_argument("--seed", type=int, default=3, help="of text, weights and order")
    parser.add_argument("--steps", type=int, help="instead of each model's own number")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    unknown = sorted(set(args.names) - set(RECIPES))
    if unknown:
        parser.error(f"unknown model {unknown[0]!r}; known: {', '.join(RECIPES)}")
    torch.set_num_threads(args.threads)
    logging.set_verbosity_error()
    for name in args.names or RECIPES:
        recipe = RECIPES[name]
        train(recipe, args.out / name, args.seed, args.steps or recipe.num_steps)


if __name__ == "__main__":
    main()
