"""Sizes of memory and files as people read them."""


def size_text(num_bytes: int) -> str:
    """In MiB, or from one on in GiB."""
    if num_bytes < 1 << 30:
        return f"{num_bytes / (1 << 20):,.1f} MiB"
    return f"{num_bytes / (1 << 30):,.2f} GiB"
