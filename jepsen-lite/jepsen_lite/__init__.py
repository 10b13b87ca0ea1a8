"""jepsen-lite: drives a store of etcd's v3 API, breaks it, heals it and checks every answer.

`python -m jepsen_lite` is the command line; `jepsen-lite/README.md` says how the parts fit.
"""
