"""Reads the lists that the corpora are written in."""

from __future__ import annotations


def items(text: str) -> list[str]:
    """The entries of `text` between bars; a line break is a space."""
    return [" ".join(entry.split()) for entry in text.split("|")]


def lines(text: str) -> list[str]:
    """The lines of `text` that are not empty, without indentation."""
    return [line.strip() for line in text.splitlines() if line.strip()]
