"""The library's log, of stdlib `logging`: "raftkv.client" and the names below it.

It is silent until the application gives `logging` a handler. Warnings are about what heals by
itself or is told by an error as well: a renewal that is late, a watch that finds no endpoint.
"""

import logging
from typing import Final

log: Final = logging.getLogger("raftkv.client")
log.addHandler(logging.NullHandler())
