"""The two faces are one text: the committed synchronous one is what its source makes."""

import ast
import asyncio
import importlib
import inspect
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import pytest

from raftkv.client import aio, sync
from raftkv.client.aio import runtime as aio_runtime
from raftkv.client.sync import runtime as sync_runtime
from scripts import generate_sync
from tests.architecture import ROOT

AIO: Final = ROOT / "raftkv" / "client" / "aio"
FROM_THE_WIRE: Final = {"answer", "event", "header", "kv", "may_be_stale", "member"}  # of `read`


def test_the_synchronous_face_is_what_its_source_makes() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/generate_sync.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert not done.returncode, done.stderr


def test_a_changed_a_missing_and_an_extra_file_are_found(tmp_path: Any) -> None:
    files, failed = generate_sync.made()
    assert not failed
    for relative, text in files.items():
        (tmp_path / relative).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / relative).write_text(text)
    assert not generate_sync.differences(files, tmp_path)
    (tmp_path / "client.py").write_text("changed\n")
    (tmp_path / "kv.py").unlink()
    (tmp_path / "extra.py").write_text("")
    wrong = generate_sync.differences(files, tmp_path)
    assert [line.rsplit("/", 1)[1] for line in wrong] == [
        "client.py: not what its source makes",
        "kv.py: missing",
        "extra.py: has no source",
    ]


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ("async def f():\n    return await g()\n", "def f():\n    return g()\n"),
        ("async with a as b:\n    pass\n", "with a as b:\n    pass\n"),
        ("async for a in b:\n    pass\n", "for a in b:\n    pass\n"),
        ("x = [a async for a in b]\n", "x = [a for a in b]\n"),
        ("x = (await f()).y\n", "x = (f()).y\n"),
        ("x = f(\n    await g(),\n    b,\n)\n", "x = f(\n    g(),\n    b,\n)\n"),
        ("def __aenter__(s): ...\n", "def __enter__(s): ...\n"),
        ("raise StopAsyncIteration\n", "raise StopIteration\n"),
        ("x: AsyncIterator[int]\n", "x: Iterator[int]\n"),
        ("from raftkv.client.aio.kv import a\n", "from raftkv.client.sync.kv import a\n"),
        ("x = anext(y)\n", "x = next(y)\n"),
        ('"""Use `await client.get(k)`."""\n', '"""Use `client.get(k)`."""\n'),
        ('"""\n    async with client.lock(n):\n"""\n', '"""\n    with client.lock(n):\n"""\n'),
        ("# from raftkv.client.aio import Client\n", "# from raftkv.client import Client\n"),
        ("x = 'they await it'\n", "x = 'they await it'\n"),
        ("if a:\n    await f()\nelse:\n    b()\n", "if a:\n    f()\nelse:\n    b()\n"),
        ("x = f'{{{a.b!r}}} await {await_it}'\n", "x = f'{{{a.b!r}}} await {await_it}'\n"),
        ("x = a + \\\n    await b\n", "x = a + \\\n    b\n"),
    ],
)
def test_every_asynchronous_form_has_its_twin(given: str, made: str) -> None:
    assert generate_sync.synchronous(given).removeprefix(generate_sync.NOTE) == made


def test_only_the_runtime_knows_asyncio_or_threads() -> None:
    """So that every decision is made in one text."""
    found = []
    for path in AIO.rglob("*.py"):
        if path.name == "runtime.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = (
                [each.name for each in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            found += [
                f"{path.name}: {name}"
                for name in names
                if name.partition(".")[0] in ("asyncio", "threading", "concurrent", "queue")
            ]
    assert not found


def test_both_faces_offer_the_same_names() -> None:
    assert sorted(aio.__all__) == sorted(sync.__all__)
    for name in aio.__all__:
        one, other = getattr(aio, name), getattr(sync, name)
        if inspect.isclass(one) and one.__module__.startswith("raftkv.client.aio"):
            public = {each for each in dir(one) if not each.startswith("_")}
            assert public == {each for each in dir(other) if not each.startswith("_")}, name
        else:
            assert one is other or name == "stm"


@pytest.mark.parametrize("face", [aio, sync])
def test_everything_offered_has_types_and_none_of_them_is_any(face: Any) -> None:
    loose = []
    for name in face.__all__:
        offered = getattr(face, name)
        members = [(name, offered)]
        if inspect.isclass(offered) and offered.__module__.startswith("raftkv."):
            members = [
                (f"{name}.{each}", value)
                for each, value in inspect.getmembers(offered)
                if not each.startswith("_")
            ]
        for label, value in members:
            function = value.fget if isinstance(value, property) else value
            if not inspect.isfunction(function) or not function.__module__.startswith("raftkv."):
                continue
            signature = inspect.signature(function)
            kinds = [each.annotation for each in list(signature.parameters.values())]
            first_is_self = next(iter(signature.parameters), "") == "self"
            for kind in [*kinds[first_is_self:], signature.return_annotation]:
                text = kind if isinstance(kind, str) else str(kind)
                if kind is inspect.Signature.empty or "Any" in text.replace("AnyStr", ""):
                    loose.append(f"{label}: {text}")
    assert not loose


def test_public_attributes_state_their_types() -> None:
    """So that every type checker comes to the same ones; a parameter's type is stated there."""
    loose = []
    for path in sorted(AIO.parent.rglob("*.py")):
        if not path.is_relative_to(AIO.parent / "sync"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                    loose += [f"{path.name}: self.{name}" for name in _inferred(node)]
    assert not loose


def _inferred(function: ast.FunctionDef) -> Iterator[str]:
    """Public attributes without an annotation, but those that are a parameter as it came."""
    given = {each.arg for each in (*function.args.args, *function.args.kwonlyargs)}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            if isinstance(node.value, ast.Name) and node.value.id in given:
                continue
            for target in node.targets:
                if isinstance(target, ast.Attribute) and not target.attr.startswith("_"):
                    yield target.attr


def test_every_public_method_says_what_its_parameters_are() -> None:
    """In its own docstring or its class's; and of a timeout, that it is in seconds."""
    unsaid = []
    for name in aio.__all__:
        offered = getattr(aio, name)
        for owner in offered.__mro__ if inspect.isclass(offered) else (offered,):
            if not getattr(owner, "__module__", "").startswith("raftkv.client"):
                continue
            for label, function in _public(owner):
                text = " ".join(f"{function.__doc__ or ''} {owner.__doc__ or ''}".split())
                parameters = inspect.signature(function).parameters.keys() - {"self", "cls"}
                unsaid += [f"{label}({each})" for each in parameters if not _says(text, each)]
                if not function.__doc__:
                    unsaid.append(label)
    assert not sorted(set(unsaid))


def _public(owner: Any) -> Iterator[tuple[str, Callable[..., object]]]:
    """The functions that a class or a function offers, by name."""
    if inspect.isfunction(owner):
        yield owner.__name__, owner
        return
    for name, value in vars(owner).items():
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if inspect.isfunction(function) and not name.startswith("_"):
            yield f"{owner.__name__}.{name}", function


def _says(text: str, parameter: str) -> bool:
    """Whether it is named, or the only thing that it can be is what the text is about."""
    if parameter == "timeout":
        return "timeout: seconds" in text or "`timeout` is in seconds" in text or _refers(text)
    return re.search(rf"\b{parameter}\b", text) is not None or parameter in FROM_THE_WIRE


def _refers(text: str) -> bool:
    """Whether it leads to another method that says what a timeout is."""
    return re.search(r"\btimeout\b[^.]*: as `", text) is not None


def test_both_runtimes_offer_the_same_names() -> None:
    def names(module: Any) -> set[str]:
        tree = ast.parse(inspect.getsource(module))
        defined = {
            node.name
            for node in tree.body
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        }
        return {name for name in defined if not name.startswith("_")}

    only_aio = names(aio_runtime) - names(sync_runtime)
    assert only_aio == {"Acquiring", "Held"}, "in threads an acquisition is over at once"
    assert not names(sync_runtime) - names(aio_runtime)
    assert sync_runtime.Acquiring


# --- the runtimes themselves ----------------------------------------------------------------
def _in_thread(function: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=function)
    thread.start()
    return thread


def test_an_event_set_by_another_thread_wakes_those_who_wait() -> None:
    async def scenario() -> None:
        event = aio_runtime.Event()
        waits = [asyncio.ensure_future(event.wait(20.0)) for _ in range(3)]
        assert not await event.wait(0.01)
        assert not event.is_set()
        thread = _in_thread(event.set)
        assert await asyncio.gather(*waits) == [True] * 3
        assert await event.wait()
        assert await event.wait(0)
        thread.join()

    asyncio.run(scenario())
    event = sync_runtime.Event()
    assert not event.wait(0.01)
    thread = _in_thread(event.set)
    assert event.wait(20.0)
    assert event.wait(0)
    thread.join()


def test_an_event_may_be_set_after_its_loop_has_ended() -> None:
    event = aio_runtime.Event()

    async def leave_waiting() -> None:
        task = asyncio.ensure_future(event.wait())
        await asyncio.sleep(0)
        task.cancel()

    asyncio.run(leave_waiting())
    loop = asyncio.new_event_loop()
    loop.create_task(event.wait()).add_done_callback(lambda _: None)
    loop.call_soon(loop.stop)
    loop.run_forever()
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    event.set()
    assert event.is_set()


def test_a_mailbox_keeps_order_and_ends_behind_its_last_item() -> None:
    async def scenario() -> None:
        box: aio_runtime.Mailbox[int] = aio_runtime.Mailbox()
        with pytest.raises(TimeoutError):
            await box.get(0.01)

        def fill() -> None:
            for number in range(1000):
                box.put(number)
            box.close(LookupError("ended"))
            box.put(5)

        thread = _in_thread(fill)
        assert [await box.get(60.0) for _ in range(1000)] == list(range(1000))
        for _ in range(2):
            with pytest.raises(LookupError):
                await box.get(60.0)
        thread.join()
        assert box.size == 0

    asyncio.run(scenario())
    box: sync_runtime.Mailbox[int] = sync_runtime.Mailbox()
    with pytest.raises(TimeoutError):
        box.get(0.01)

    def fill_it() -> None:
        for number in range(1000):
            box.put(number)

    thread = _in_thread(fill_it)
    assert [box.get(60.0) for _ in range(1000)] == list(range(1000))
    thread.join()
    box.close(LookupError("ended"))
    with pytest.raises(LookupError):
        box.get()


def test_clean_up_runs_to_its_end_although_the_caller_is_cancelled() -> None:
    async def scenario() -> None:
        done = []

        async def clean(name: str) -> str:
            await asyncio.sleep(0.05)
            done.append(name)
            return name

        async def caller() -> None:
            await aio_runtime.finish(clean, "a")

        task = asyncio.ensure_future(caller())
        await asyncio.sleep(0.01)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert done == ["a"]
        assert await aio_runtime.finish(clean, "b") == "b"

    asyncio.run(scenario())
    assert sync_runtime.finish(lambda: "b") == "b"


def test_a_task_can_be_stopped_and_may_stop_itself() -> None:
    async def scenario() -> None:
        ended = []

        async def wait() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                ended.append("wait")

        task = aio_runtime.spawn(wait)
        await asyncio.sleep(0)
        assert not await task.join(0.01)
        await task.stop()
        assert ended == ["wait"]

        async def stop_itself() -> None:
            await own.stop()
            ended.append("itself")

        own = aio_runtime.spawn(stop_itself)
        assert await own.join(20.0)
        assert ended == ["wait", "itself"]

    asyncio.run(scenario())
    event = threading.Event()

    def wait_for_it() -> None:
        event.wait(20.0)

    task = sync_runtime.spawn(partial(wait_for_it))
    assert not task.join(0.01)
    event.set()
    task.stop()
    assert task.join(0)


def test_the_library_runs_on_uvloop(raftkv_served: Any, prefix: str) -> None:
    uvloop = importlib.import_module("uvloop")

    async def scenario() -> None:
        async with aio.Client(raftkv_served.endpoints) as client:
            put = await client.put(prefix + "a", "1")
            async with client.watch(prefix + "a", start_revision=put.revision) as watch:
                batch = await watch.next(timeout=60.0)
                assert batch.events[0].text == "1"
            async with client.lease(5) as lease:
                assert lease.alive

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())


def test_reading_a_stream_may_be_given_up_and_taken_up_again(raftkv_served: Any) -> None:
    """Nothing is lost by a timeout, and closing wakes who reads."""
    from raftkv.pb import rpc_pb2

    path = "/etcdserverpb.Watch/Watch"
    request = rpc_pb2.WatchRequest(create_request=rpc_pb2.WatchCreateRequest(key=b"stream"))

    async def scenario() -> None:
        async with aio.Client(raftkv_served.endpoints) as client:
            _, stream = await client._connection.stream(path, rpc_pb2.WatchResponse)
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    await stream.read(0.02)
            await stream.write(request)
            reply = await stream.read(60.0)
            assert reply is not None
            assert reply.created
            reading = asyncio.ensure_future(stream.read())
            await asyncio.sleep(0.01)
            await stream.close()
            assert await reading is None
            assert await stream.read() is None
            await stream.write(request)

    asyncio.run(scenario())
    with sync.Client(raftkv_served.endpoints) as client:
        _, stream = client._connection.stream(path, rpc_pb2.WatchResponse)
        with pytest.raises(TimeoutError):
            stream.read(0.02)
        stream.write(request)
        reply = stream.read(60.0)
        assert reply is not None
        assert reply.created
        got: list[object] = []
        thread = _in_thread(lambda: got.append(stream.read()))
        time.sleep(0.05)
        stream.close()
        thread.join(20.0)
        assert got == [None]
        assert stream.read() is None
        stream.write(request)
