"""The model card that travels with a checkpoint."""

from __future__ import annotations

from pathlib import Path

from phi3svc.embedded.training.recipe import Recipe, Scores

CARD = """---
license: apache-2.0
library_name: phi3svc
pipeline_tag: {pipeline}
---
# {name}: {title}

{summary}

A Phi-3 network of {num_params:.2f} M parameters in bfloat16, with LongRoPE over
{max_len} positions and an original length of {original_len}. It ships with phi3svc so that the
service can be tried and tested without a download; it knows nothing beyond its small domain.

Trained from scratch on text that a grammar in `phi3svc/embedded/training` writes, and on no other
data: {num_steps} steps of about {tokens_per_batch} tokens, seed {seed}.

    python -m phi3svc.embedded.training.train --out DIR {name}

Held-out scores of the bfloat16 weights, on combinations of words and phrasings that training never
shows:

| score | value |
| --- | --- |
{rows}
"""

PIPELINES = {
    "Phi3ForCausalLM": "text-generation",
    "Phi3ForSequenceClassification": "text-classification",
    "Phi3ForTokenClassification": "token-classification",
}


def write_card(
    recipe: Recipe,
    out: Path,
    seed: int,
    num_steps: int,
    num_params: int,
    scores: Scores,
) -> None:
    """Writes `out`/README.md."""
    card = CARD.format(
        name=recipe.name,
        title=recipe.title,
        summary=recipe.summary,
        pipeline=PIPELINES[recipe.model_class.__name__],
        num_params=num_params / 1e6,
        max_len=8 * recipe.original_len,
        original_len=recipe.original_len,
        num_steps=num_steps,
        tokens_per_batch=recipe.tokens_per_batch,
        seed=seed,
        rows="\n".join(f"| {name} | {value:.4f} |" for name, value in scores.items()),
    )
    (out / "README.md").write_text(card, encoding="utf-8")
