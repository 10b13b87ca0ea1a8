"""The option that writes golden transcripts anew instead of comparing them."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --rewrite unless another directory's conftest did."""
    try:
        parser.addoption("--rewrite", action="store_true", help="rewrite golden transcripts")
    except ValueError:
        return  # somebody else's golden files share the option


@pytest.fixture
def rewrite(request: pytest.FixtureRequest) -> bool:
    """True if golden files are to be written, not compared."""
    return bool(request.config.getoption("--rewrite", default=False))
