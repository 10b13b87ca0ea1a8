"""`raftctl snapshot save`, `status` and `restore`: a cluster's state as a file, and back.

`save` takes the bytes of one member, also from an etcd, compares their hash and gives the file its
name only then; what had that name before is replaced, as by etcdctl. `status` and `restore` read
raftkv's own files (`raftkv.storage.backup`) and archives (`raftkv.storage.archive`); whatever is
wrong with one is found before anything is written.
"""

import os
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import click

from raftkv.cli import gotext
from raftkv.cli.ctl import CtlCommand, GoInt, LazyGroup, Session
from raftkv.cli.exits import BAD_ARGUMENTS, BAD_FEATURE, ERROR, INTERRUPTED, CtlError
from raftkv.cli.printers import emit
from raftkv.cli.receiving import receive
from raftkv.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from raftkv.config import ServerConfig


@click.group(
    "snapshot",
    cls=LazyGroup,
    lazy={
        "save": "snapshot:save",
        "status": "snapshot:status",
        "restore": "snapshot:restore",
        "archive": "snapshot_archive:archive",
    },
    no_args_is_help=False,
    invoke_without_command=True,
)
@click.pass_context
def snapshot(ctx: click.Context, /, **_: Any) -> None:
    """Save the whole store in a file, look at such a file, begin a cluster with one."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


# --- save -----------------------------------------------------------------------


@click.command("save", cls=CtlCommand)
@click.argument("args", nargs=-1, metavar="FILENAME")
@click.pass_obj
def save(session: Session, args: tuple[str, ...]) -> None:
    """Store one member's state in FILENAME, without a time limit."""
    if len(args) != 1:
        raise CtlError("snapshot save expects one argument", BAD_ARGUMENTS)
    endpoints = session.target.endpoints
    if len(endpoints) != 1:
        listed = " ".join(endpoints)
        raise CtlError(
            f"snapshot must be requested to one selected node, not multiple [{listed}]", INTERRUPTED
        )
    path, partial = args[0], f"{args[0]}.part"
    try:
        with open(partial, "wb", opener=_private) as file:
            session.call(lambda connection: receive(connection, endpoints[0], file))
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_directory(os.path.dirname(path) or ".")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CtlError(f"could not save {path}: {reason}", INTERRUPTED) from None
    finally:
        with suppress(OSError):
            os.unlink(partial)
    emit(f"Snapshot saved at {path}")


def _private(path: str, flags: int) -> int:
    """Opens a file that nobody else may read: everything is in it."""
    return os.open(path, flags, 0o600)


def _sync_directory(path: str) -> None:
    number = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


# --- status -----------------------------------------------------------------------


@click.command("status", cls=CtlCommand)
@click.argument("args", nargs=-1, metavar="FILENAME")
@click.pass_obj
def status(session: Session, args: tuple[str, ...]) -> None:
    """Check FILENAME as a restore would; print its hash, revision, keys and size.

    Of an archive's directory: which revisions and times it covers, and what is missing.
    """
    if len(args) != 1:
        raise CtlError("snapshot status requires exactly one argument", BAD_ARGUMENTS)
    if os.path.isdir(args[0]):
        from raftkv.cli.commands.snapshot_archive import show_status

        show_status(session, args[0])
        return
    from raftkv.server.restoring import snapshot_status

    _must_exist(args[0])
    show = _SHOWN.get(session.printer.name)
    if show is None:
        raise CtlError(f"{session.printer.name} not supported as output format", BAD_FEATURE)
    try:
        found = snapshot_status(args[0])
    except StorageError as error:
        raise CtlError(str(error), ERROR) from None
    show(found)


def _must_exist(path: str) -> None:
    try:
        os.stat(path)
    except OSError as error:
        raise CtlError(f"stat {path}: {(error.strerror or str(error)).lower()}", ERROR) from None


def _row(found: Any) -> list[str]:
    snapshot = found.snapshot
    size = gotext.byte_size(snapshot.size)
    return [f"{snapshot.hash:x}", str(found.applied.revision), str(found.keys), size]


def _show_simple(found: Any) -> None:
    emit(", ".join(_row(found)))


def _show_table(found: Any) -> None:
    from raftkv.cli import table

    click.echo(
        table.render(["HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE"], [_row(found)]), nl=False
    )


def _show_json(found: Any) -> None:
    snapshot = found.snapshot
    tree = {
        "hash": snapshot.hash,
        "revision": found.applied.revision,
        "totalKey": found.keys,
        "totalSize": snapshot.size,
    }
    emit(gotext.json_text({**tree, **_description(found)}))


def _show_fields(found: Any) -> None:
    snapshot = found.snapshot
    emit(
        f'"Hash" : {snapshot.hash}',
        f'"Revision" : {found.applied.revision}',
        f'"Keys" : {found.keys}',
        f'"Size" : {snapshot.size}',
        *(f'"{name}" : {value}' for name, value in _description(found).items()),
    )


def _description(found: Any) -> dict[str, object]:
    """What only raftkv's snapshots say, behind what etcdctl prints."""
    told = found.snapshot.description
    names = ("cluster", "member", "index", "term", "compacted_revision", "created", "version")
    return {name: told[name] for name in names if name in told}


_SHOWN: Final = {
    "simple": _show_simple,
    "table": _show_table,
    "json": _show_json,
    "fields": _show_fields,
}


# --- restore ----------------------------------------------------------------------


@click.command("restore", cls=CtlCommand)
@click.argument("args", nargs=-1, metavar="FILENAME")
@click.option("--data-dir", default="", help="The member's directory: must not exist, or be empty.")
@click.option("--wal-dir", default="", help="Not supported: the log lies in the data directory.")
@click.option("--name", default="default", help="Of this member.")
@click.option("--initial-cluster", default="", help="name=peerURL,... of all new members.")
@click.option("--initial-cluster-token", default="etcd-cluster", help="As for raftkv serve.")
@click.option(
    "--initial-advertise-peer-urls", default="http://localhost:2380", help="Of this member."
)
@click.option("--skip-hash-check", is_flag=True, help="Take it although its hash does not match.")
@click.option(
    "--bump-revision",
    type=GoInt(),
    default=1_000_000_000,
    help="Added to the revision, so that none that a client has seen comes again. [1000000000]",
)
@click.option(
    "--mark-compacted",
    type=bool,
    is_flag=False,
    flag_value="true",
    default=None,
    help="Count all history as compacted. [true with --bump-revision]",
)
@click.option("--archive", default="", help="Add what this archive holds behind the snapshot.")
@click.option("--to-revision", type=GoInt(), default=None, help="Of the archive: up to here.")
@click.option("--to-time", default="", help="Of the archive: up to here, 2026-11-23T17:30:00Z.")
@click.pass_obj
def restore(session: Session, /, args: tuple[str, ...], **flags: Any) -> None:
    """Make the data directory of one member of a new cluster that begins with FILENAME.

    Do this for every member, with the same file and the same flags but --name, --data-dir and
    --initial-advertise-peer-urls; then start all of them. With --archive, FILENAME may be left
    out: then it is one that the archive holds.
    """
    if len(args) != 1 and not (flags["archive"] and not args):
        raise CtlError("snapshot restore requires exactly one argument", BAD_ARGUMENTS)
    if flags["wal_dir"]:
        raise CtlError("--wal-dir is not supported: the log lies in the data directory")
    from raftkv.server.restoring import Rewriting
    from raftkv.server.restoring import restore as restore_state

    for path in (*args, *([flags["archive"]] if flags["archive"] else [])):
        _must_exist(path)
    began = time.monotonic()
    try:
        archived = _archived(flags)
        config = _config(flags)
        bump, mark = flags["bump_revision"], flags["mark_compacted"]
        rewriting = Rewriting(bump, bump > 0 if mark is None else mark)
        done = restore_state(
            args[0] if args else "",
            config,
            rewriting,
            skip_hash=flags["skip_hash_check"],
            archived=archived,
        )
    except (ConfigError, StorageError) as error:
        raise CtlError(str(error), ERROR) from None
    _tell(session, config, done, time.monotonic() - began)


def _archived(flags: dict[str, Any]) -> Any:
    """What --archive and its two flags say. Errors: ConfigError."""
    from raftkv.server.archive import Target, parse_time
    from raftkv.server.restoring import Archived

    revision, text = flags["to_revision"], flags["to_time"]
    if not flags["archive"]:
        if text or revision is not None:
            raise ConfigError("--to-revision and --to-time need --archive")
        return None
    if text and revision is not None:
        raise ConfigError("--to-revision and --to-time exclude each other")
    return Archived(flags["archive"], Target(revision, parse_time(text) if text else None))


def _config(flags: dict[str, Any]) -> "ServerConfig":
    from pathlib import Path

    from raftkv.config import ServerConfig, parse_initial_cluster, parse_urls

    name = flags["name"]
    text = flags["initial_cluster"]
    return ServerConfig(
        name=name,
        data_dir=Path(flags["data_dir"] or f"{name}.raftkv"),
        initial_advertise_peer_urls=parse_urls(
            "initial-advertise-peer-urls", flags["initial_advertise_peer_urls"]
        ),
        initial_cluster=parse_initial_cluster(text) if text else {},
        initial_cluster_token=flags["initial_cluster_token"],
    )


def _tell(session: Session, config: "ServerConfig", done: Any, seconds: float) -> None:
    identity, before, after = done.identity, done.before, done.after
    if done.note:
        print(f"note: {done.note}", file=sys.stderr)
    if done.unknown_leases:
        print(
            f"note: nobody knows the time to live of {done.unknown_leases} leases; 60 s it is",
            file=sys.stderr,
        )
    if session.printer.name == "json":
        tree = {
            "dataDir": str(config.data_dir),
            "clusterID": identity.cluster,
            "memberID": identity.member,
            "restoredRevision": before.revision,
            "revision": after.revision,
            "compactRevision": max(after.compacted, 0),
        }
        emit(gotext.json_text(tree))
        return
    emit(
        f"Restored revision {before.revision} into {config.data_dir} in {seconds:.1f} s",
        f"Member {identity.member:x} of the new cluster {identity.cluster:x}, at revision "
        f"{after.revision}, compacted up to {max(after.compacted, 0)}",
    )
