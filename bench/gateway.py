"""The rows of the JSON gateway."""

from typing import Final

from bench.rows import Row, closed_loop

GATEWAY_ROWS: Final = tuple(
    Row(f"gateway-put-{connections}x1", closed_loop, "gateway-put", connections, 1)
    for connections in (1, 10, 100)
)
