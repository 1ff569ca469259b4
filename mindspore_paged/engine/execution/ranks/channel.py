"""The line between the leader and its followers: calls go out, outcomes come back, over local or network sockets.

Messages are pickles of this package's own dataclasses. That is safe here and nowhere else: both ends are one program,
and a connection counts only after each side has proved (HMAC over a challenge) that it knows a key which the leader
draws at random and hands to the job's own processes through its supervisor.
"""

import pickle
import secrets
from collections.abc import Sequence
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from typing import Any

from mindspore_paged.engine.execution.ranks.calls import Call, Outcome
from mindspore_paged.engine.execution.ranks.place import Place
from mindspore_paged.errors import GroupError
from mindspore_paged.launch import supervision
from mindspore_paged.launch.sockets import without_delay

KEY_BYTES = 32


class LeaderChannel:
    """The leader's end; `followers` are the connections to ranks 1, 2, … of the group, in this order."""

    def __init__(self, followers: Sequence[Connection]):
        self._followers = list(followers)

    @property
    def num_followers(self) -> int:
        """Ranks besides the leader."""
        return len(self._followers)

    def send(self, calls: Sequence[Call]) -> None:
        """Hand every follower its call, one each; what all of them get alike is packed once. Raises GroupError."""
        last, message = None, b""
        for rank, (follower, call) in enumerate(zip(self._followers, calls, strict=True), 1):
            if call is not last:
                last, message = call, pickle.dumps(call, pickle.HIGHEST_PROTOCOL)
            try:
                follower.send_bytes(message)
            except OSError:
                raise GroupError(f"rank {rank} of the group is gone") from None

    def collect(self, number: int) -> list[Outcome]:
        """Every follower's outcome of call `number`; raises GroupError if one is gone."""
        return [self._outcome(rank, number) for rank in range(1, self.num_followers + 1)]

    def close(self) -> None:
        """Send the followers home."""
        for follower in self._followers:
            try:
                follower.send_bytes(pickle.dumps(None))
                follower.close()
            except OSError:
                continue  # it is gone already

    def _outcome(self, rank: int, number: int) -> Outcome:
        outcome = _receive(self._followers[rank - 1], f"rank {rank} of the group is gone")
        while outcome.number < number:  # of a call that the leader was interrupted in
            outcome = _receive(self._followers[rank - 1], f"rank {rank} of the group is gone")
        return outcome


class FollowerChannel:
    """A follower's end."""

    def __init__(self, leader: Connection):
        self._leader = leader

    def receive(self) -> Call | None:
        """The next call, or None when the leader closes the channel; raises GroupError if the leader is gone."""
        return _receive(self._leader, "the leader of the group is gone")

    def answer(self, outcome: Outcome) -> None:
        """Tell the leader what came of a call; raises GroupError if it is gone."""
        try:
            self._leader.send_bytes(pickle.dumps(outcome, pickle.HIGHEST_PROTOCOL))
        except OSError:
            raise GroupError("the leader of the group is gone") from None

    def close(self) -> None:
        """Let go of the connection."""
        self._leader.close()


def open_channel(place: Place, common: dict[str, Any]) -> LeaderChannel | FollowerChannel | None:
    """The line of this rank to the others of its group, None if there are none; waits until all are there.

    common: what all ranks must agree on; raises GroupError on the leader if a follower has anything else.
    """
    name = f"leader of replica {place.replica}"
    if place.parallel.size == 1:
        return None
    if place.is_leader:
        return listen(name, place.worker.own_address(), place.parallel.size, common)
    return connect(name, place.parallel.rank, common)


def listen(name: str, host: str, size: int, common: dict[str, Any]) -> LeaderChannel:
    """Listen at `host`, publish where under `name`, and wait for ranks 1 to size - 1."""
    key = secrets.token_bytes(KEY_BYTES)
    followers: dict[int, Connection] = {}
    with Listener((host, 0), backlog=size, authkey=key) as listener:
        supervision.publish(name, f"{host} {listener.address[1]} {key.hex()}")
        while len(followers) < size - 1:
            try:
                connection = listener.accept()
            except (AuthenticationError, EOFError, ConnectionError):
                continue  # a stranger
            rank, theirs = _receive(connection, "a rank of the group is gone before it said which one it is")
            _check_common(rank, theirs, common)
            followers[rank] = without_delay(connection)
    return LeaderChannel([followers[rank] for rank in range(1, size)])


def connect(name: str, rank: int, common: dict[str, Any]) -> FollowerChannel:
    """Connect to the leader that published itself under `name`, as `rank` of its group."""
    host, port, key = supervision.lookup(name).split()
    connection = without_delay(Client((host, int(port)), authkey=bytes.fromhex(key)))
    connection.send_bytes(pickle.dumps((rank, common)))
    return FollowerChannel(connection)


def _check_common(rank: int, theirs: dict[str, Any], common: dict[str, Any]) -> None:
    for key, value in common.items():
        if theirs[key] != value:
            raise GroupError(f"{key} is {theirs[key]} on rank {rank} of the group, {value} on rank 0; they must agree")


def _receive(connection: Connection, gone: str) -> Any:
    try:
        return pickle.loads(connection.recv_bytes())
    except (EOFError, OSError):
        raise GroupError(gone) from None
