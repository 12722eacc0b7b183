"""Numbers with their nouns, for messages."""

from __future__ import annotations


def counted(count: float, noun: str) -> str:
    """The count with its noun: "1 pair", "2 processes", "1,000 held-out photos", "0.5 minutes".

    noun: in the singular, with a regular plural; may have adjectives before it.
    """
    if count == 1:
        return f"1 {noun}"
    number = f"{count:g}" if isinstance(count, float) else f"{count:,}"
    return f"{number} {noun}{'es' if noun.endswith(('s', 'x', 'ch', 'sh')) else 's'}"
