"""What comes on a watch, in raftctl's output formats; etcdctl's to the byte."""

from raftkv.cli import gotext
from raftkv.cli.printers import FieldsPrinter, JsonPrinter, Printer, SimplePrinter, emit
from raftkv.pb import kv_pb2, rpc_pb2


def kind_of(event: kv_pb2.Event) -> str:
    """PUT or DELETE."""
    return kv_pb2.Event.EventType.Name(event.type)


def print_response(printer: Printer, response: rpc_pb2.WatchResponse) -> None:
    """One response. Errors: CtlError if the format has none."""
    if isinstance(printer, SimplePrinter):
        for event in response.events:
            emit(kind_of(event))
            if event.HasField("prev_kv"):
                printer.pair(event.prev_kv)
            printer.pair(event.kv)
    elif isinstance(printer, FieldsPrinter):
        printer.header(response.header)
        for event in response.events:
            emit(f'"Type" : {kind_of(event)}')
            if event.HasField("prev_kv"):
                printer.pair("Prev", event.prev_kv)
            printer.pair("", event.kv)
    elif isinstance(printer, JsonPrinter):
        emit(gotext.json_text(_tree(response)))
    else:
        bare = rpc_pb2.WatchResponse(
            header=response.header,
            compact_revision=response.compact_revision,
            canceled=response.canceled,
            created=response.created,
            events=response.events,
        )
        printer.message(bare)


def _tree(response: rpc_pb2.WatchResponse) -> dict[str, object]:
    """The fields of Go's clientv3.WatchResponse, which has names of its own."""
    return {
        "Header": gotext.message_tree(response.header),
        "Events": [gotext.message_tree(event) for event in response.events],
        "CompactRevision": response.compact_revision,
        "Canceled": response.canceled,
        "Created": response.created,
    }
