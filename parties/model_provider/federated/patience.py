"""A grid that asks a site again which went away over a question.

Flower answers in a site's place that its node is unavailable, once it has missed two
heartbeats (a minute). What a site does in a round depends on nothing but the question,
so asking again, when it is back, gives the answer it would have given.
"""

import time
from collections.abc import Iterable
from typing import Final

from flwr.app import Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run

# The site, or what it was to send, is gone; it has not said that it failed.
_AWAY: Final = frozenset(
    {
        ErrorCode.MESSAGE_UNAVAILABLE,
        ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
        ErrorCode.NODE_UNAVAILABLE,
        ErrorCode.CLIENT_APP_CRASHED,
    }
)
_POLL_S: Final = 1.0


class PatientGrid(Grid):
    """Flower's grid, but a question is over when at least `quorum` sites answered."""

    def __init__(self, grid: Grid, quorum: int) -> None:
        self._grid, self._quorum = grid, quorum

    def set_run(self, run: Run) -> None:
        """Take a run's description."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run this grid is for."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Make a message, in Flower's former way."""
        return self._grid.create_message(
            content, message_type, dst_node_id, group_id, ttl
        )

    def get_node_ids(self) -> Iterable[int]:
        """The sites that are there now."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send without waiting."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Fetch what has been answered."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Ask, and ask those again that went away, until enough have answered."""
        open_, answers = list(messages), list[Message]()
        while open_:
            replies = list(self._grid.send_and_receive(open_, timeout=timeout))
            given = [reply for reply in replies if not _is_away(reply)]
            answers += given
            answered = {reply.metadata.reply_to_message_id for reply in given}
            open_ = [m for m in open_ if m.metadata.message_id not in answered]
            if len(answers) >= self._quorum:
                break
            self._wait_for({message.metadata.dst_node_id for message in open_})
            open_ = [_again(message) for message in open_]
        return answers

    def _wait_for(self, nodes: set[int]) -> None:
        while not nodes <= set(self._grid.get_node_ids()):
            time.sleep(_POLL_S)


def _is_away(reply: Message) -> bool:
    return reply.has_error() and reply.error.code in _AWAY


def _again(message: Message) -> Message:
    """The same question in a new message: each is sent once."""
    to, kind = message.metadata.dst_node_id, message.metadata.message_type
    return Message(message.content, to, kind)
