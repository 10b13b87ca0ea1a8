"""A raftkv member whose disk and clocks can be made to fail, in a process of its own.

    python -m jepsen_lite.member --control SOCKET [--mutant NAME] -- FLAGS OF raftkv serve

It is the server itself, built by its own composition root, upon other surroundings: files and
row stores that ask `Faults` before they write or sync (`files`, `rows`), an event loop whose clock
is a `SkewedClock` (`clocks`). What is to fail is said by lines of JSON over a Unix socket
(`control`). The server knows nothing of all this, and without this launcher there is nothing of it.

This is the only package here that imports the server's own parts; so known-wrong
variants of them that no other package has are here as well (`etcd_bugs`).
"""
