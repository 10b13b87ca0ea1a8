"""What is said to an operator whose member must not go on with its directory."""

from raftkv.errors import CorruptionError


def refusal(path: str, member: int, problem: str) -> CorruptionError:
    """An error that says what is wrong with the directory and how the member comes back."""
    return CorruptionError(
        f"data directory {path} cannot be trusted: {problem}. "
        "This member must not vote, because it may have forgotten what it promised. "
        f"To rejoin: `raftctl member remove {member:x}`, `raftctl member add` with its peer URL, "
        "then start it again with an empty directory; it fetches everything from the leader. "
        "Keep this directory until the cluster is healthy."
    )
