"""raftkv and etcd side by side: the same load, the same machine, taking turns.

`python -m bench` starts three nodes of each system, puts one of them at a time under the
same load and prints what came out next to what was asked for.

    requests   what is sent: encoded once, before the clock starts
    load       connections, calls and clocks of one run (asyncio, raftkv's HTTP/2 client)
    generator  a run in a process of its own
    counters   CPU, memory and disk of the servers, from /proc
    children   processes that end with the benchmark
    clusters   three nodes of a system, started and always ended
    rows       the rows of the table and how one is measured
    streams    a call whose answers are counted, not decoded
    streaming  runs of watches and renewals
    watching   the rows of watches and leases
    clients    the rows of client libraries, raftkv's and other people's
    client_worker  one library in a process of its own
    foreign    other people's clients in environments of their own
    special    long writing, a million keys, losing the leader
    saving     snapshots of a million keys, beside puts
    http_load  connections of HTTP/1.1 that put by the JSON gateway
    gateway    the rows of the gateway
    table      all rows
    targets    what is asked for
    report     medians, ratios, the tables, JSON
    plots      the same as pictures
    profiling  where a raftkv node spends its time under the load of a row
"""
