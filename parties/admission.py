"""Who may act in a role that the federation gives to one party only."""

from collections.abc import Callable

from core.errors import NotAllowedError
from core.rpc.identity import SpiffeId


def only(*peers: SpiffeId) -> Callable[[SpiffeId], None]:
    """Give a check for `serve(admit=...)`: in a peer's role nobody else may call.

    The authority may have signed the same role for another organisation. Roles that no
    peer has are left to the policy.
    """
    expected = {peer.role: peer for peer in peers}

    def admit(caller: SpiffeId) -> None:
        if caller != expected.get(caller.role, caller):
            raise NotAllowedError(f"{caller} is not {expected[caller.role]}")

    return admit
