"""One request and its answer, if need be from where a server is alone.

`python -m orchestrator.bench.asking` reads a line with the target, then the request,
and writes the answer.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from core.errors import PeerUnavailable
from orchestrator.bench.connections import Target, connect

_ANSWER_S: Final = 10.0
# An interpreter with gRPC starts, and ends.
_SLACK_S: Final = 20.0


def ask(target: Target, body: bytes, entry: Sequence[str] = ()) -> bytes:
    """Ask once, over a connection of its own.

    Args:
        entry: what a command begins with that can reach the server; empty: we can.

    Raises:
        PeerUnavailable: there was no answer.
        TimeoutError: it took too long.
    """
    return _there(target, body, entry) if entry else asyncio.run(_here(target, body))


async def _here(target: Target, body: bytes) -> bytes:
    async with asyncio.timeout(_ANSWER_S):
        connection = await connect(target)
        try:
            return await connection.ask(body)
        finally:
            await connection.close()


def _there(target: Target, body: bytes, entry: Sequence[str]) -> bytes:
    try:
        done = subprocess.run(
            [*entry, sys.executable, "-m", "orchestrator.bench.asking"],
            input=json.dumps(asdict(target)).encode() + b"\n" + body,
            capture_output=True,
            check=False,
            timeout=_ANSWER_S + _SLACK_S,
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(str(error)) from None
    if done.returncode:
        raise PeerUnavailable(done.stderr.decode(errors="replace").strip()[-300:])
    return done.stdout


def main() -> None:
    """Ask what the standard input says."""
    target = Target.from_dict(json.loads(sys.stdin.buffer.readline()))
    try:
        answer = ask(target, sys.stdin.buffer.read())
    except (PeerUnavailable, TimeoutError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    sys.stdout.buffer.write(answer)


if __name__ == "__main__":
    main()
