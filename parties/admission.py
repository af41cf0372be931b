"""Who may call a party: checks for `serve(admit=...)`, beside the table of roles."""

from collections.abc import Callable
from typing import Final, TypeAlias

from core.errors import NotAllowedError
from core.rpc.identity import OPERATOR, ORCHESTRATOR, SpiffeId
from parties.standing import Standing

Check: TypeAlias = Callable[[SpiffeId], None]

# Those who must get through to a party that has lost touch: the one to be in touch
# with, and whoever looks after it. Neither is answered anything by a key.
_ALWAYS_HEARD: Final = frozenset({ORCHESTRATOR, OPERATOR})


def only(*peers: SpiffeId) -> Check:
    """Give a check: in a peer's role nobody else may call.

    The authority may have signed the same role for another organisation. Roles that no
    peer has are left to the policy.
    """
    expected = {peer.role: peer for peer in peers}

    def admit(caller: SpiffeId) -> None:
        if caller != expected.get(caller.role, caller):
            raise NotAllowedError(f"{caller} is not {expected[caller.role]}")

    return admit


def in_good_standing(standing: Standing) -> Check:
    """Give a check: who was revoked may not call, whatever connection it has open.

    While the registry does not answer, nobody may but orchestrator and operators.
    """

    def admit(caller: SpiffeId) -> None:
        if caller.role in _ALWAYS_HEARD:
            standing.refuse_revoked(str(caller))
        else:
            standing.require_party(str(caller))

    return admit


def every(*checks: Check) -> Check:
    """Give a check that is passed by passing all of these, in their order."""

    def admit(caller: SpiffeId) -> None:
        for check in checks:
            check(caller)

    return admit
