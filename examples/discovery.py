"""A service whose instances are found by their clients, and taken out when they are not well.

    python examples/discovery.py serve --endpoints 127.0.0.1:2379 --instance a
    python examples/discovery.py ask --endpoints 127.0.0.1:2379 --times 5

`serve` answers HTTP requests with its name and registers the address under "hello". `ask` keeps the
instances in memory and asks them in turn; one that does not answer is passed over, for a
registry knows who was well some seconds ago, not who is.
"""

import argparse
import http.server
import itertools
import signal
import threading
import urllib.request

from raftkv.client import Client

SERVICE = "hello"


def serve(client: Client, instance: str) -> None:
    """Answers requests until it is terminated."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(instance.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    address = f"127.0.0.1:{server.server_port}"
    services = client.registry("services", ttl=5)
    with services.register(SERVICE, instance, address, health=thread.is_alive):
        print(f"{instance} serves at {address}", flush=True)
        ended.wait()
    server.shutdown()  # behind the end of the registration, so that nobody is sent here any more


def ask(client: Client, times: int) -> None:
    """Asks the instances in turn and prints their answers."""
    with client.registry("services").watch(SERVICE) as instances:
        for number in itertools.count():
            if not times:
                return
            if not instances.value:
                instances.next(timeout=30)
                continue
            one = instances.value[number % len(instances.value)]
            try:
                with urllib.request.urlopen(f"http://{one.address}", timeout=2) as answer:
                    print(answer.read().decode(), flush=True)
                    times -= 1
            except OSError as error:
                print(f"{one.name} does not answer: {error}", flush=True)
                threading.Event().wait(0.1)


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=("serve", "ask"))
    parser.add_argument("--endpoints", default="127.0.0.1:2379")
    parser.add_argument("--instance", default="a")
    parser.add_argument("--times", type=int, default=1)
    given = parser.parse_args()
    with Client(given.endpoints) as client:
        if given.role == "serve":
            serve(client, given.instance)
        else:
            ask(client, given.times)


if __name__ == "__main__":
    main()
