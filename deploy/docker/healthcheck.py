#!/usr/bin/env python3
"""Whether the member in this container is well: exit code 0 or 1, and a line that says why.

    raftkv-healthcheck [PATH]      PATH: /readyz (default), /livez or /health

It asks the first of RAFTKV_LISTEN_METRICS_URLS at the loopback, because that port wants no
certificate of a client. Standard library only, so that a check costs a twentieth of a second and
not the half that the command line's imports take.
"""

import http.client
import os
import sys
from urllib.parse import urlsplit

ASK_SECONDS = 4.0
FIRST_BYTES = 500


def main() -> int:
    """The exit code."""
    path = sys.argv[1] if len(sys.argv) > 1 else "/readyz"
    first = os.environ.get("RAFTKV_LISTEN_METRICS_URLS", "").split(",")[0]
    port = urlsplit(first).port or 2381
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ASK_SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        text = answer.read(FIRST_BYTES).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException) as error:
        print(f"{path} at port {port}: {error}")  # noqa: T201
        return 1
    finally:
        connection.close()
    print(text)  # noqa: T201
    return 0 if answer.status == http.client.OK else 1


if __name__ == "__main__":
    sys.exit(main())
