"""The client library of raftkv, which also speaks to etcd.

    from raftkv.client import Client

    with Client("127.0.0.1:2379,127.0.0.1:22379,127.0.0.1:32379") as client:
        client.put("greeting", "hello")
        print(client.get("greeting").text)

`raftkv.client.aio` offers the same with `async` and `await`. Results and errors are the same
classes in both.
"""

from typing import TYPE_CHECKING

from raftkv.client import shared, sync
from raftkv.client.shared import *  # noqa: F403

__all__: list[str] = []
__all__ += sync.__all__

if TYPE_CHECKING:
    __all__ += shared.__all__  # which sync's has too
    from raftkv.client.sync import *  # noqa: F403
else:

    def __getattr__(name: str) -> object:
        return getattr(sync, name)
