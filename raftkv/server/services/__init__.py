"""The services of the etcd API, one module each, and how they are put together."""
