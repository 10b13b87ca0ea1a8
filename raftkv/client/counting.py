"""What a counter's key holds. Pure."""

from raftkv.client.errors import RecipeError

SHOWN_BYTES = 40


class NotANumber(RecipeError):
    """The counter's key holds something else than a decimal number."""


def number(name: bytes, value: bytes | None) -> int:
    """The number in a counter's key; 0 for a missing one. Errors: NotANumber."""
    if value is None:
        return 0
    try:
        return int(value)
    except ValueError:
        raise NotANumber(f"{name!r} holds {value[:SHOWN_BYTES]!r}, which is no number") from None
