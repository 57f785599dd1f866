"""A world for the commit protocol: a store in memory, actors, and time that only they move.

Actors are threads that run production code, exactly one at a time: each request to the store and
each sleep ends the actor's turn. Who has the next turn, whose request gets lost, and who dies is
decided outside, by a schedule; so a history is a function of its schedule.
"""

import random
import threading
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BytesIO
from types import SimpleNamespace

import fsspec
import pytest
import tenacity
from fsspec.spec import AbstractFileSystem

from stx_core.store import clock
from stx_core.store.files import create, filesystem, parallel


class Crashed(BaseException):
    """The actor's process is dead: no handler of it runs any more."""


class Conflict(OSError):
    """HTTP 409: the store has not decided, and nothing was written."""

    response = {"ResponseMetadata": {"HTTPStatusCode": 409}}


def _taken_lock():
    lock = threading.Lock()
    lock.acquire()
    return lock


@dataclass
class Actor:
    """A process of the world.

    Attributes:
        name: for messages.
        work: what it does.
        parent: who started it.
        fault: what happens to its next request.
        about_to_create: what its next request creates, if absent; empty for all other requests.
    """

    name: str
    work: object
    parent: object
    about_to_create: str = ""
    fault: str = ""
    is_crashed: bool = False
    is_done: bool = False
    wakes_s: float = 0.0
    error: BaseException | None = None
    turn: threading.Lock = field(default_factory=_taken_lock)


class World:
    """All state of one history."""

    def __init__(self):
        self.objects = {}  # path -> (bytes, time of the store in seconds)
        self.created = []  # (path, bytes) of all that was created only if absent, in order
        self.now_s = 0.0
        self.actors = []
        self.late = []  # requests that their clients gave up, still on their way
        self._local = threading.local()
        self._turn_over = _taken_lock()

    def start(self, name, work):
        """A new actor. It does nothing until it is stepped."""
        actor = Actor(name, work, getattr(self._local, "actor", None))
        self.actors.append(actor)
        threading.Thread(target=self._live, args=(actor,), daemon=True).start()
        return actor

    @property
    def alive(self):
        return [actor for actor in self.actors if not actor.is_done]

    def step(self, actor):
        """Let an actor make the request that it waits with, and go on to its next one."""
        # Nobody oversleeps: who sleeps takes the clock along when it is stepped.
        self.now_s = max(self.now_s + 0.01, actor.wakes_s)
        actor.turn.release()
        self._turn_over.acquire()

    def crash(self, actor):
        actor.is_crashed = True
        while not actor.is_done:
            self.step(actor)

    def land(self, index):
        """Let a request arrive whose client does not wait for it any more."""
        if self.late:
            try:
                self.late.pop(index % len(self.late))()
            except FileExistsError:
                return  # the answer has no reader

    def request(self, apply, *, writes=False, creates=""):
        """A request of the actor whose thread this is; `apply` is what the server does."""
        actor = self._end_turn(creates)
        fault = ""
        if actor is not None:
            fault, actor.fault = actor.fault, ""
        if not fault:
            return apply()
        if fault == "refused":
            raise Conflict("409, try again")
        if writes:
            self.late.append(apply)
            if fault == "lost":
                self.land(-1)
        raise TimeoutError("no answer")

    def sleep(self, seconds):
        actor = getattr(self._local, "actor", None)
        if actor is not None:
            actor.wakes_s = self.now_s + seconds
            self._end_turn()

    def _end_turn(self, creates=""):
        actor = getattr(self._local, "actor", None)
        if actor is not None:  # else the test itself looks at the store
            actor.about_to_create = creates
            self._turn_over.release()
            actor.turn.acquire()
            if actor.is_crashed:
                raise Crashed
        return actor

    def _live(self, actor):
        self._local.actor = actor
        actor.turn.acquire()
        try:
            if not actor.is_crashed:
                actor.work()
        except (Exception, Crashed) as error:
            actor.error = error
        actor.is_done = True
        self._turn_over.release()


class SimulatedStore(AbstractFileSystem):
    """An object store: flat names, strong consistency, `mode="create"` honoured."""

    protocol = "sim"
    cachable = False
    world = None

    def find(self, path, maxdepth=None, withdirs=False, detail=False, **_):
        path = self._strip_protocol(path)

        def apply():
            names = [name for name in self.world.objects if f"{name}/".startswith(f"{path}/")]
            return {name: self._describe(name) for name in sorted(names)}

        found = self.world.request(apply)
        return found if detail else list(found)

    def ls(self, path, detail=True, **_):
        path = self._strip_protocol(path)

        def apply():
            below = [name for name in self.world.objects if name.startswith(f"{path}/")]
            if not below:
                raise FileNotFoundError(path)
            return [self._describe(name) for name in below if "/" not in name[len(path) + 1 :]]

        found = self.world.request(apply)
        return found if detail else [info["name"] for info in found]

    def info(self, path, **_):
        path = self._strip_protocol(path)
        return self.world.request(lambda: self._describe(path))

    def modified(self, path):
        return self.info(path)["LastModified"]

    def cat_file(self, path, start=None, end=None, **_):
        path = self._strip_protocol(path)
        return self.world.request(lambda: self._get(path)[0][start:end])

    def pipe_file(self, path, value, mode="overwrite", **_):
        path = self._strip_protocol(path)

        def apply():
            if mode == "create" and path in self.world.objects:
                raise FileExistsError(path)
            if mode == "create":
                self.world.created.append((path, bytes(value)))
            self.world.objects[path] = (bytes(value), self.world.now_s)

        self.world.request(apply, writes=True, creates=path if mode == "create" else "")

    def rm_file(self, path):
        path = self._strip_protocol(path)
        self.world.request(lambda: self.world.objects.pop(path, None), writes=True)

    def _rm(self, path):
        self.rm_file(path)

    def rm(self, path, recursive=False, maxdepth=None):
        for each in [path] if isinstance(path, str) else path:
            self.rm_file(each)

    def _open(self, path, mode="rb", **_):
        return BytesIO(self.cat_file(path))

    def _get(self, path):
        if path not in self.world.objects:
            raise FileNotFoundError(path)
        return self.world.objects[path]

    def _describe(self, path):
        data, modified_s = self._get(path)
        return {
            "name": path,
            "type": "file",
            "size": len(data),
            "LastModified": datetime.fromtimestamp(modified_s, UTC),
        }


class OneByOne:
    """Stands for a thread pool: its threads would be no actors."""

    def __init__(self, n_threads):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def map(self, call, items):
        return [call(item) for item in items]


@pytest.fixture(scope="session")
def new_world():
    """Makes a world and puts it under the production code, until the next one is made."""
    fsspec.register_implementation("sim", SimulatedStore, clobber=True)
    with pytest.MonkeyPatch.context() as patch:

        def build():
            world = World()
            names = random.Random(0)
            time = SimpleNamespace(monotonic=lambda: world.now_s, sleep=world.sleep)
            patch.setattr(SimulatedStore, "world", world)
            patch.setattr(filesystem, "SCHEMES", {*filesystem.SCHEMES, "sim"})
            patch.setattr(create, "CONDITIONAL", create.CONDITIONAL | {"sim"})
            patch.setattr(clock, "monotonic", time.monotonic)
            patch.setattr(clock, "sleep", time.sleep)
            patch.setattr(tenacity, "time", time)
            patch.setattr(tenacity.nap, "time", time)
            patch.setattr(parallel, "ThreadPoolExecutor", OneByOne)
            # Not by chance: a schedule replays, whatever the order of names decides.
            patch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=names.getrandbits(128)))
            random.seed(0)
            return world

        yield build
