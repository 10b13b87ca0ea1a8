"""How the keeper of leases reaches a client's servers: by blocking channels of its own.

It shares with the client's calls what they know of the endpoints and the token, and no
connection: a call that moves much data, or a user's loop that takes no answers, must not hold up
renewals. The user's interceptors are for the client's calls; the keeper goes without.
"""

from collections.abc import Callable, Sequence
from itertools import chain

import grpc

from raftkv.client import channels
from raftkv.client.endpoints import Places
from raftkv.client.settings import Settings


class OwnChannels:
    """A `keeper.Route`. metadata: what goes with a call now, asked each time."""

    def __init__(
        self,
        settings: Settings,
        places: Places,
        metadata: Callable[[], Sequence[tuple[str, str]]],
    ) -> None:
        self._settings = settings
        self._places = places
        self.metadata = metadata

    def endpoints(self) -> Sequence[str]:
        """The endpoints as they were written; the one that the client's calls go to comes first."""
        listed = [each.text for each in self._settings.endpoints]
        first = self._places.current
        return list(chain(listed[first:], listed[:first]))

    def dial(self, endpoint: str) -> grpc.Channel:
        """A new channel. It connects anew even where another channel has a connection."""
        chosen = next(each for each in self._settings.endpoints if each.text == endpoint)
        options = channels.options(self._settings)
        credentials = channels.credentials(self._settings, chosen)
        if credentials is None:
            return grpc.insecure_channel(chosen.address, options)
        return grpc.secure_channel(chosen.address, credentials, options)
