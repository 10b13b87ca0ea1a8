"""All rows of the table, in its order."""

from typing import Final

from bench.clients import CLIENT_ROWS
from bench.gateway import GATEWAY_ROWS
from bench.operating import OPERATING_ROWS
from bench.rows import LOAD_ROWS
from bench.saving import SAVING_ROWS
from bench.special import SPECIAL_ROWS
from bench.watching import STREAM_ROWS

ROWS: Final = (
    *LOAD_ROWS,
    *STREAM_ROWS,
    *SPECIAL_ROWS,
    *SAVING_ROWS,
    *OPERATING_ROWS,
    *GATEWAY_ROWS,
    *CLIENT_ROWS,
)
