"""HTTP on the client port, beside gRPC: the JSON gateway, health, version, metrics and profiles.

    http1, http1_exchange, http2
                      bytes of one connection <-> requests and exchanges
    messages          what a request and its way back are, whatever brought it
    site              which page a path is
    access            CORS and the host whitelist, in front of all pages
    health, pages, variables, profiles
                      the pages that are not the gateway
    gateway, calls    a path of the gateway -> the route of the gRPC method behind it
    paths             etcd's table of paths
    fromjson, tojson, objects
                      JSON <-> protobuf bytes, to the letter of etcd's gateway
    syntax            what Go's decoder says about text that is no JSON
    websocket         streams of the gateway over a WebSocket
    building          puts all this together

Everything but `http1`, `http2` and `websocket` is without sockets. A request makes one object that
hears its body (a `Receiver`) and answers by its `Exchange`; the gateway's receivers are at the same
time what the services take for a gRPC client, so no method exists twice.
"""
