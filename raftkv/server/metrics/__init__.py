"""What a member counts, as Prometheus reads it: with etcd's names wherever etcd has one.

Nothing is collected while nobody asks. What happens often is counted where it happens, as plain
integers and histograms of the thread that does it (`wire.tally`, `histogram`, `server.traffic`);
what a member knows anyway (its leader, its sizes) is read from where it lies. The families in here
only say which is which.
"""
