"""What is said to an operator whose member must not go on with its directory."""

from raftkv.errors import CorruptionError


def refusal(path: str, member: int, problem: str) -> CorruptionError:
    """An error that says what is wrong with the directory and how the member comes back."""
    return CorruptionError(
        f"data directory {path} cannot be trusted: {problem}. "
        "This member must not vote, because it may have forgotten what it promised. "
        "To rejoin: move the directory away and start again with --rejoin; it comes back under a "
        "new id and fetches everything from the leader. By hand: "
        f"`raftctl member replace {member:x}`, or `raftctl member remove {member:x}` and "
        "`raftctl member add` with its peer URL, then start it with an empty directory. "
        "Keep this directory until the cluster is healthy."
    )
