"""Frames and members as text, for people who read the end of a failed run."""

from dataclasses import fields
from typing import TYPE_CHECKING

from raftkv.raft.messages import Message
from raftkv.sim.transfer import MESSAGES
from raftkv.wire.peer import decode_messages

if TYPE_CHECKING:
    from raftkv.sim.node import Node


def describe_node(node: "Node") -> str:
    """A member's state in a few words."""
    if not node.up:
        return f"{node.member}: down"
    core = node.replica.core
    return (
        f"{node.member}: {'leader' if core.is_leader else f'follows {core.leader}'} "
        f"term {core.term} log {core.last_index} commit {core.commit} "
        f"applied {node.applied_index}{' paused' if node.paused else ''}"
    )


def describe_frame(sender: int, receiver: int, frame: bytes) -> str:
    """A frame of the trace as text: its messages without the payloads of entries."""
    if frame[0] != MESSAGES:
        return f"{sender} -> {receiver}: piece of a state, {len(frame)} bytes"
    return f"{sender} -> {receiver}: " + "; ".join(
        describe_message(message) for message in decode_messages(frame[1:])
    )


def describe_message(message: Message) -> str:
    """A message in one line."""
    parts = []
    for field in fields(message):
        value = getattr(message, field.name)
        if field.name == "entries":
            value = [(entry.index, entry.term, entry.kind) for entry in value]
        elif field.name == "proposals":
            value = [number for number, _ in value]
        if field.name not in ("to", "sender"):
            parts.append(f"{field.name}={value}")
    return f"{type(message).__name__}({', '.join(parts)})"
