"""The commands of `raftctl`, one module per group; `raftkv.cli.ctl` imports one when used."""
