"""The gateway's paths: etcd's table, and a rule for methods that etcd does not have.

Source: the google.api.http options of etcd's rpc.proto, v3lock.proto and v3election.proto. A path
belongs to a method whether this member has that method or not: one that it lacks answers as it
does to gRPC. Methods without a path of etcd's are served under their gRPC path.
"""

from typing import Final

_KV: Final = "etcdserverpb.KV/"
_LEASE: Final = "etcdserverpb.Lease/"
_CLUSTER: Final = "etcdserverpb.Cluster/"
_MAINTENANCE: Final = "etcdserverpb.Maintenance/"
_AUTH: Final = "etcdserverpb.Auth/"
_LOCK: Final = "v3lockpb.Lock/"
_ELECTION: Final = "v3electionpb.Election/"

# Path behind "/v3/" -> "package.Service/Method".
ETCD: Final = {
    "kv/range": _KV + "Range",
    "kv/put": _KV + "Put",
    "kv/deleterange": _KV + "DeleteRange",
    "kv/txn": _KV + "Txn",
    "kv/compaction": _KV + "Compact",
    "watch": "etcdserverpb.Watch/Watch",
    "lease/grant": _LEASE + "LeaseGrant",
    "lease/revoke": _LEASE + "LeaseRevoke",
    "kv/lease/revoke": _LEASE + "LeaseRevoke",
    "lease/keepalive": _LEASE + "LeaseKeepAlive",
    "lease/timetolive": _LEASE + "LeaseTimeToLive",
    "kv/lease/timetolive": _LEASE + "LeaseTimeToLive",
    "lease/leases": _LEASE + "LeaseLeases",
    "kv/lease/leases": _LEASE + "LeaseLeases",
    "cluster/member/add": _CLUSTER + "MemberAdd",
    "cluster/member/remove": _CLUSTER + "MemberRemove",
    "cluster/member/update": _CLUSTER + "MemberUpdate",
    "cluster/member/list": _CLUSTER + "MemberList",
    "cluster/member/promote": _CLUSTER + "MemberPromote",
    "maintenance/alarm": _MAINTENANCE + "Alarm",
    "maintenance/status": _MAINTENANCE + "Status",
    "maintenance/defragment": _MAINTENANCE + "Defragment",
    "maintenance/hash": _MAINTENANCE + "Hash",
    "maintenance/hashkv": _MAINTENANCE + "HashKV",  # etcd 3.6; in 3.5 it had the path of Hash
    "maintenance/snapshot": _MAINTENANCE + "Snapshot",
    "maintenance/transfer-leadership": _MAINTENANCE + "MoveLeader",
    "maintenance/downgrade": _MAINTENANCE + "Downgrade",
    "auth/enable": _AUTH + "AuthEnable",
    "auth/disable": _AUTH + "AuthDisable",
    "auth/status": _AUTH + "AuthStatus",
    "auth/authenticate": _AUTH + "Authenticate",
    "auth/user/add": _AUTH + "UserAdd",
    "auth/user/get": _AUTH + "UserGet",
    "auth/user/list": _AUTH + "UserList",
    "auth/user/delete": _AUTH + "UserDelete",
    "auth/user/changepw": _AUTH + "UserChangePassword",
    "auth/user/grant": _AUTH + "UserGrantRole",
    "auth/user/revoke": _AUTH + "UserRevokeRole",
    "auth/role/add": _AUTH + "RoleAdd",
    "auth/role/get": _AUTH + "RoleGet",
    "auth/role/list": _AUTH + "RoleList",
    "auth/role/delete": _AUTH + "RoleDelete",
    "auth/role/grant": _AUTH + "RoleGrantPermission",
    "auth/role/revoke": _AUTH + "RoleRevokePermission",
    "lock/lock": _LOCK + "Lock",
    "lock/unlock": _LOCK + "Unlock",
    "election/campaign": _ELECTION + "Campaign",
    "election/proclaim": _ELECTION + "Proclaim",
    "election/leader": _ELECTION + "Leader",
    "election/observe": _ELECTION + "Observe",
    "election/resign": _ELECTION + "Resign",
}
