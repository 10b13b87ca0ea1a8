"""Every limit of raftkv in one place, each with its unit, asserted against each other.

Defaults are etcd's where etcd has one. A limit that an operator may set is a
default here and a field of `raftkv.config`.
"""

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# --- client requests --------------------------------------------------------
MAX_REQUEST_BYTES: Final = 1536 * KIB  # an encoded write request (etcd --max-request-bytes)
GRPC_OVERHEAD_BYTES: Final = 512 * KIB  # a gRPC message may exceed a request by this much
MAX_TXN_OPS: Final = 128  # per list: compares, success, failure (etcd --max-txn-ops)
MAX_TXN_DEPTH: Final = 16  # nested transactions; bounds recursion in checks and apply
# What the ranges of a transaction that writes may read when it is applied, all together. Every
# member decides by these: members with different numbers would part.
MAX_TXN_READ_KEYS: Final = 10_000
MAX_TXN_READ_BYTES: Final = 32 * MIB
MAX_LEASE_TTL_SECONDS: Final = 9_000_000_000
MAX_CONCURRENT_STREAMS: Final = 2**32 - 1  # HTTP/2 streams per client connection

# --- sessions: every member decides by these, as by MAX_TXN_READ_* ------------
MAX_SESSIONS: Final = 4_096  # of a cluster
MAX_KEPT_ANSWERS: Final = 64  # of a session: sequences at and above its lowest unanswered one
MAX_KEPT_ANSWER_BYTES: Final = 64 * KIB  # of a larger one only the revision is kept
MAX_ALL_KEPT_BYTES: Final = 64 * MIB  # of all sessions together: beyond it, likewise

# --- pending work -----------------------------------------------------------
MAX_PENDING_PROPOSALS: Final = 20_000  # waiting tickets per member
MAX_PENDING_READS: Final = 50_000  # linearizable reads waiting for a read index
MAX_UNCOMMITTED_BYTES: Final = 64 * MIB  # payloads appended by a leader, not yet committed
MAX_APPLY_LAG_ENTRIES: Final = 5_000  # committed but not applied (etcd's bound)
STALLED_INTAKE_BYTES_PER_SECOND: Final = 4 * MIB  # appended while the backend cannot keep up
MAX_HELD_BYTES: Final = 16 * MIB  # of followers' writes meanwhile; more are refused

# --- watches ----------------------------------------------------------------
MAX_WATCHES_PER_CONNECTION: Final = 65_536  # each takes up to 2 KiB
# Queued for one stream of watches: events from history wait beyond the first, so that those of
# now, of the same stream's other watches, still find room below the second.
WATCH_HISTORY_BYTES: Final = 256 * KIB
WATCH_STREAM_BYTES: Final = 2 * MIB
WATCH_CONNECTION_BYTES: Final = 16 * MIB  # queued for a connection: none of its watches gets more
WATCH_RESPONSE_BYTES: Final = 2 * MIB  # a longer one is cut where a revision ends

# --- replication ------------------------------------------------------------
MAX_APPEND_BYTES: Final = 1 * MIB  # payload bytes of one AppendEntries (one entry may exceed)
MAX_INFLIGHT_BYTES: Final = 16 * MIB  # unacknowledged payload bytes per follower
MAX_INFLIGHT_MESSAGES: Final = 512  # unacknowledged AppendEntries per follower
MAX_LOG_CACHE_BYTES: Final = 64 * MIB  # log entries kept in memory behind the applied index
MAX_PEER_MESSAGE_BYTES: Final = 64 * MIB  # one gRPC message between peers
SNAPSHOT_CHUNK_BYTES: Final = 256 * KIB
MAX_LEARNERS: Final = 1  # etcd --max-learners

# --- slices -----------------------------------------------------------------
SLICE_SECONDS: Final = 0.005  # longest own work in one turn of the event loop
MAX_LONG_READS: Final = 1_000  # answered in slices, per member: waiting, under way, stalled
MAX_SLICED_AT_ONCE: Final = 8  # of these, how many have begun: each holds what it has found
MAX_SNAPSHOTS: Final = 2  # that are being sent to clients, per member: each holds tables

# --- HTTP/2 -----------------------------------------------------------------
MAX_HEADER_LIST_BYTES: Final = 16 * KIB
MAX_CONNECTION_OUTPUT_BYTES: Final = 64 * MIB  # queued for one connection before it is cut
STALLED_CONNECTION_SECONDS: Final = 60.0  # zero window with queued output
HANDSHAKE_SECONDS: Final = 10.0  # TLS handshake plus HTTP/2 preface
# Of the process's open files: for the log, LevelDB, members, and clients being turned away. The
# rest is for clients.
RESERVED_FILES: Final = 1024

# --- HTTP/1 and the JSON gateway ----------------------------------------------
MAX_HTTP_HEADER_BYTES: Final = 64 * KIB  # the head of a request
HTTP_BODY_SECONDS: Final = 60.0  # for the body of a request that is no stream
HTTP_IDLE_SECONDS: Final = 600.0  # between two requests of a connection
HEALTH_SECONDS: Final = 2.0  # for the read that a health page makes: who asks does not wait long
# A JSON body per byte of the largest gRPC message: base64 takes 4/3, names and blanks the rest.
HTTP_BODY_FACTOR: Final = 2

# One session alone can keep all that it may.
assert MAX_KEPT_ANSWERS * MAX_KEPT_ANSWER_BYTES < MAX_ALL_KEPT_BYTES
# The fixed part of all answers, some 250 bytes each, stays of the same order as their bytes.
assert MAX_SESSIONS * MAX_KEPT_ANSWERS * 256 <= MAX_ALL_KEPT_BYTES
assert WATCH_HISTORY_BYTES < WATCH_STREAM_BYTES < WATCH_CONNECTION_BYTES
assert WATCH_CONNECTION_BYTES < MAX_CONNECTION_OUTPUT_BYTES
assert MAX_HELD_BYTES <= 5 * STALLED_INTAKE_BYTES_PER_SECOND  # no client has given up by then
assert MAX_APPEND_BYTES < MAX_INFLIGHT_BYTES < MAX_UNCOMMITTED_BYTES
assert MAX_REQUEST_BYTES + GRPC_OVERHEAD_BYTES < MAX_PEER_MESSAGE_BYTES
assert MAX_REQUEST_BYTES + MAX_APPEND_BYTES < MAX_PEER_MESSAGE_BYTES
