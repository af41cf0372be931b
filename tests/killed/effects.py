"""What a process does outside its database: calls to peers, and names of files."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

import grpc

from tests.killed.points import Watch, is_of_a_workflow

# These change nothing at the peer, or are made at every start.
_NO_STEPS: Final = ("Check", "Get", "List", "RegisterPublicKeys", "Watch")
# Which of a message's fields say what it is about, and are the same in every run.
_NAMES: Final = ("key_id", "version", "key_version", "model", "model_version")
# Written at every start, or several times a second: no step of a workflow.
_IGNORED: Final = frozenset({"address", "checkpoint.txt"})


@dataclass
class Calls(
    grpc.UnaryUnaryClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
):
    """Passes a point before and after every call that changes something."""

    watch: Watch

    def listen(self) -> None:
        """From now on, for every channel that this process opens."""
        real = grpc.secure_channel

        def secure_channel(*arguments: Any, **named: Any) -> grpc.Channel:
            return grpc.intercept_channel(real(*arguments, **named), self)

        grpc.secure_channel = secure_channel

    def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.ClientCallDetails, Any], Any],
        client_call_details: grpc.ClientCallDetails,
        request: Any,
    ) -> Any:
        labels = _labels(client_call_details.method, request)
        self.watch.passes("before", labels)
        call = continuation(client_call_details, request)
        if call.exception() is None:
            self.watch.passes("after", labels)
        return call

    def intercept_stream_unary(
        self,
        continuation: Callable[[grpc.ClientCallDetails, Any], Any],
        client_call_details: grpc.ClientCallDetails,
        request_iterator: Iterator[Any],
    ) -> Any:
        first = next(request_iterator)
        labels = _labels(client_call_details.method, first)
        self.watch.passes("before", labels)
        call = continuation(client_call_details, chain([first], request_iterator))
        if call.exception() is None:
            self.watch.passes("after", labels)
        return call


@dataclass(frozen=True)
class Files:
    """Passes a point before and after a file below `folder` gets or loses its name."""

    watch: Watch
    folder: Path

    def listen(self) -> None:
        """From now on, for this process; `pathlib` asks `os` too."""
        for name in ("rename", "replace"):
            setattr(os, name, self._watched("name", getattr(os, name), 1))
        for name in ("unlink", "remove"):
            setattr(os, name, self._watched("delete", getattr(os, name), 0))

    def _watched(
        self, what: str, act: Callable[..., None], position: int
    ) -> Callable[..., None]:
        def watched(*paths: Any, **named: Any) -> None:
            with self.watch.around(self._labels(what, Path(paths[position]))):
                act(*paths, **named)

        return watched

    def _labels(self, what: str, path: Path) -> Sequence[str]:
        inside = path.is_absolute() and path.is_relative_to(self.folder)
        if not inside or path.name in _IGNORED or path.name.startswith("."):
            return []
        return [f"{what} {path.relative_to(self.folder)}"]


def _labels(method: str, request: Any) -> list[str]:
    name = method.rpartition("/")[2]
    if name.startswith(_NO_STEPS):
        return []
    if statement := getattr(request, "statement", b""):
        return [f"{name} {_named(json.loads(statement).get)}"]
    events = getattr(request, "events", None)
    if events is not None:
        return [
            f"{name} {each.kind} {_named(each.subject.get)}"
            for each in events
            if is_of_a_workflow(each.kind)
        ]
    return [f"{name} {_named(lambda field: getattr(request, field, None))}"]


def _named(value_of: Callable[[str], Any]) -> str:
    return " ".join(str(value) for name in _NAMES if (value := value_of(name)))
