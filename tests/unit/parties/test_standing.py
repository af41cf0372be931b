"""The copy of who stands how: what it lets in, when it is too old, how it heals."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from threading import Condition, Event
from typing import Any

import pytest

from core.errors import (
    ConfigurationError,
    KeymixerError,
    KeyRefusedError,
    NotAllowedError,
    PeerUnavailable,
)
from core.rpc.errors import status_of
from core.rpc.identity import OPERATOR, SpiffeId
from parties.admission import every, in_good_standing, only
from parties.presence import Presence, PublicKeys, attended
from parties.standing import Standing, StandingUnknownError, take_staleness
from protos import registry_pb2 as pb
from tests.unit.parties.stage import (
    KEY_HOLDER_ID,
    ORCHESTRATOR_ID,
    OTHER_OWNER_ID,
    OWNER_ID,
    FakeRegistry,
)

OPERATOR_ID = SpiffeId("demo", "consortium", OPERATOR)
OWNER = str(OWNER_ID)


@dataclass
class Source:
    """A registry's word as a test writes it, and a clock that a test moves."""

    answers: list[pb.ListStandingResponse | Exception] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    now_s: float = 100.0
    now_ms: int = 1_750_000_000_000

    def __call__(self, since: int) -> pb.ListStandingResponse:
        self.asked.append(since)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def standing(self, **more: Any) -> Standing:
        return Standing(
            self,
            5.0,
            clock=lambda: self.now_s,
            now_ms=lambda: self.now_ms,
            **more,
        )


def word(revision: int = 7, **keys: str) -> pb.ListStandingResponse:
    """The owner is active; each key has version 1, in the state given."""
    return pb.ListStandingResponse(
        revision=revision,
        parties=[pb.PartyStanding(spiffe_id=OWNER, state="active")],
        keys=[
            pb.KeyStanding(key_id=name, version=1, state=state)
            for name, state in keys.items()
        ],
    )


def heard(*answers: pb.ListStandingResponse) -> tuple[Source, Standing]:
    source = Source(list(answers))
    standing = source.standing()
    for _ in answers:
        standing.look()
    return source, standing


def test_before_the_first_word_nobody_is_served() -> None:
    standing = Source().standing()

    assert not standing.is_fresh()
    with pytest.raises(StandingUnknownError):
        standing.require_party(OWNER)
    with pytest.raises(StandingUnknownError):
        standing.require_key("k", 1)


def test_who_and_what_is_active_is_served() -> None:
    _, standing = heard(word(k="active"))

    standing.require_party(OWNER)
    standing.require_key("k", 1)


@pytest.mark.parametrize(
    "state",
    ["pre_active", "suspended", "compromised", "destroy_scheduled", "destroyed", "?"],
)
def test_a_key_in_any_other_state_is_refused(state: str) -> None:
    _, standing = heard(word(k=state))

    with pytest.raises(KeyRefusedError):
        standing.require_key("k", 1)


def test_what_was_never_named_is_refused() -> None:
    _, standing = heard(word(k="active"))

    for name, version in (("k", 2), ("k", 0), ("K", 1), ("", 1)):
        with pytest.raises(KeyRefusedError):
            standing.require_key(name, version)
    with pytest.raises(NotAllowedError):
        standing.require_party(str(OTHER_OWNER_ID))


def test_a_retiring_key_is_served_until_its_last_millisecond() -> None:
    source = Source()
    source.answers = [word()]
    retiring = source.answers[0]
    assert isinstance(retiring, pb.ListStandingResponse)
    retiring.keys.add(
        key_id="k", version=1, state="retiring", retire_at_ms=source.now_ms + 10
    )
    standing = source.standing()
    standing.look()

    source.now_ms += 9
    standing.require_key("k", 1)
    source.now_ms += 1
    with pytest.raises(KeyRefusedError):
        standing.require_key("k", 1)


def test_what_changed_takes_the_place_of_what_was_known() -> None:
    later = pb.ListStandingResponse(revision=9)
    later.keys.add(key_id="a", version=1, state="suspended")
    later.parties.add(spiffe_id=OWNER, state="revoked")
    source, standing = heard(word(a="active", b="active"), later)

    assert source.asked == [0, 7]
    standing.require_key("b", 1)
    with pytest.raises(KeyRefusedError):
        standing.require_key("a", 1)
    with pytest.raises(NotAllowedError):
        standing.require_party(OWNER)


@pytest.mark.parametrize("former", [{"k": "pre_active"}, {"k": "suspended"}, {}])
def test_a_version_that_came_into_use_since_the_last_look_is_learned_of(
    former: dict[str, str],
) -> None:
    """Drawn, suspended or never heard of: its owner asks sooner than the next look."""
    source, standing = heard(word(7, **former))
    source.answers = [word(8, k="active")]

    standing.learn_key("k", 1)

    standing.require_key("k", 1)
    assert source.asked == [0, 7]


@pytest.mark.parametrize(
    "state", ["active", "retiring", "compromised", "destroy_scheduled", "destroyed"]
)
def test_a_version_in_use_or_ended_is_not_asked_about_again(state: str) -> None:
    """A revoked owner that asks without pause costs the registry nothing."""
    source, standing = heard(word(k=state))

    standing.learn_key("k", 1)

    assert source.asked == [0]


def test_who_waited_for_another_look_that_began_later_needs_none_of_its_own() -> None:
    source, standing = heard(word(k="pre_active"))
    source.answers = [word(8, k="active")]
    times: list[float] = []
    began = Event()

    def clock() -> float:
        """Read twice before the lock: is it fresh, and when did the question begin."""
        times.append(source.now_s)
        if len(times) == 2:
            began.set()
        return source.now_s

    with ThreadPoolExecutor(1) as pool:
        with standing._looking:
            standing._clock = clock
            asking = pool.submit(standing.learn_key, "k", 1)
            assert began.wait(60)
            source.now_s += 1
            standing._look()
        asking.result()

    assert source.asked == [0, 7]
    standing.require_key("k", 1)


def test_a_registry_that_is_away_is_the_error_not_a_refusal() -> None:
    """`KeyRefused` would say that the key may not be used, which nobody knows."""
    source, standing = heard(word(k="pre_active"))
    source.answers = [PeerUnavailable("away")]

    with pytest.raises(PeerUnavailable):
        standing.learn_key("k", 1)


def test_a_registry_that_was_put_back_is_heard_from_the_start() -> None:
    """Its log is shorter than it was: what came after that never happened."""
    source = Source([word(9, a="active"), word(4, b="active"), word(4, b="active")])
    standing = source.standing()
    standing.look()
    standing.look()

    assert source.asked == [0, 9, 0]
    standing.require_key("b", 1)
    with pytest.raises(KeyRefusedError):
        standing.require_key("a", 1)


def test_a_word_serves_for_so_long_and_no_longer() -> None:
    source, standing = heard(word(k="active"))

    source.now_s += 5.0
    standing.require_key("k", 1)
    assert standing.is_fresh()
    source.now_s += 0.001
    assert not standing.is_fresh()
    with pytest.raises(StandingUnknownError):
        standing.require_party(OWNER)
    with pytest.raises(StandingUnknownError) as caught:
        standing.require_key("k", 1)
    assert status_of(caught.value).name == "UNAVAILABLE"
    assert caught.value.hint


def test_a_word_is_as_old_as_the_question() -> None:
    """It may be of any instant since: the answer that took long is old on arrival."""
    source = Source()

    def slow(_: int) -> pb.ListStandingResponse:
        source.now_s += 5.001
        return word(k="active")

    standing = Standing(slow, 5.0, clock=lambda: source.now_s)
    standing.look()

    assert not standing.is_fresh()


def test_a_failed_look_changes_nothing_and_the_next_one_heals() -> None:
    source, standing = heard(word(k="active"))
    source.answers = [PeerUnavailable("away"), word(8)]
    source.now_s += 6
    with pytest.raises(PeerUnavailable):
        standing.look()
    assert not standing.is_fresh()

    standing.look()
    standing.require_key("k", 1)
    assert source.asked == [0, 7, 7]


def test_a_revocation_outlives_the_contact() -> None:
    """Nobody comes back from it, so it may be told however old it is."""
    revoked = word()
    revoked.parties[0].state = "revoked"
    source, standing = heard(revoked)
    source.now_s += 60

    with pytest.raises(NotAllowedError):
        standing.require_party(OWNER)


def test_what_must_come_first_comes_first() -> None:
    done: list[str] = []
    troubles = [PeerUnavailable("away")]

    def at_first() -> None:
        if troubles:
            raise troubles.pop()
        done.append("stock")

    source = Source([word(), word()])
    standing = source.standing(at_first=at_first)
    with pytest.raises(PeerUnavailable):
        standing.look()
    assert (standing.is_fresh(), source.asked) == (False, [])

    standing.look()
    standing.look()
    assert (standing.is_fresh(), done) == (True, ["stock"])


def test_many_threads_see_one_instant_or_the_next_but_no_mixture() -> None:
    """Of two keys one is active at a time: never both, never neither."""
    words = [
        word(
            n,
            a="active" if n % 2 else "suspended",
            b="suspended" if n % 2 else "active",
        )
        for n in range(1, 400)
    ]
    source = Source(list(words))
    standing = source.standing()
    standing.look()
    ended = Event()

    def watch() -> set[int]:
        seen = set()
        while not ended.is_set():
            keys = standing._fresh().keys
            seen.add([keys[name, 1].state for name in "ab"].count("active"))
        return seen

    with ThreadPoolExecutor(2) as pool:
        watching = [pool.submit(watch) for _ in range(2)]
        while source.answers:
            standing.look()
        ended.set()

        assert [watcher.result() for watcher in watching] == [{1}, {1}]


def allowed(check: Callable[[SpiffeId], None], caller: SpiffeId) -> str:
    try:
        check(caller)
    except KeymixerError as error:
        return error.kind
    return ""


def test_orchestrator_and_operators_get_through_to_whoever_lost_touch() -> None:
    check = in_good_standing(Source().standing())

    assert [allowed(check, caller) for caller in (ORCHESTRATOR_ID, OPERATOR_ID)] == [
        "",
        "",
    ]
    assert allowed(check, OWNER_ID) == "StandingUnknown"
    assert allowed(check, KEY_HOLDER_ID) == "StandingUnknown"


def test_a_revoked_operator_gets_through_to_nobody() -> None:
    answer = word()
    answer.parties.add(spiffe_id=str(OPERATOR_ID), state="revoked")
    source, standing = heard(answer)
    check = in_good_standing(standing)

    assert allowed(check, OPERATOR_ID) == "NotAllowed"
    source.now_s += 60
    assert allowed(check, OPERATOR_ID) == "NotAllowed"


def test_every_check_must_be_passed() -> None:
    _, standing = heard(word())
    check = every(only(KEY_HOLDER_ID), in_good_standing(standing))

    assert allowed(check, OWNER_ID) == ""
    assert allowed(check, SpiffeId("demo", "usurper", "key-holder")) == "NotAllowed"
    assert allowed(check, KEY_HOLDER_ID) == "NotAllowed", "it is not enrolled"


@pytest.mark.parametrize(
    "setting", [0, -1, float("inf"), float("nan"), "5", True, None]
)
def test_a_staleness_that_is_no_time_is_refused(setting: object) -> None:
    with pytest.raises(ConfigurationError, match="max_staleness_s"):
        take_staleness({"max_staleness_s": setting})


def test_a_staleness_is_a_number_of_seconds() -> None:
    assert take_staleness({"max_staleness_s": 2}) == 2.0
    assert take_staleness({}) == 5.0


class Willing(FakeRegistry):
    """A registry that takes any keys, and can be away."""

    away = False

    def register_public_keys(self, signing_key: bytes, sealing_key: bytes) -> None:
        if self.away:
            raise PeerUnavailable("away")

    def party(self, spiffe_id: str) -> pb.Party:
        if self.away:
            raise PeerUnavailable("away")
        return super().party(spiffe_id)

    def standing(self, since: int) -> pb.ListStandingResponse:
        if self.away:
            raise PeerUnavailable("away")
        return super().standing(since)


def test_health_follows_the_copys_age_and_comes_back_by_itself() -> None:
    registry, changed = Willing(), Condition()
    registry.enrol(OWNER_ID)
    told: list[bool] = []

    def set_serving(serving: bool, why: str) -> None:
        with changed:
            assert serving == (why == "")
            if serving != (told[-1] if told else False):  # or another reason only
                told.append(serving)
            changed.notify_all()

    standing = Standing(registry.standing, 1.0)
    presence = Presence(registry, OWNER, PublicKeys(b"s" * 32))
    with attended(presence, standing, set_serving):
        for away, serving in ((False, True), (True, False), (False, True)):
            registry.away = away
            with changed:
                assert changed.wait_for(partial(_last, told, serving), 20)

    assert told[:3] == [True, False, True]


def _last(told: list[bool], expected: bool) -> bool:
    return told[-1:] == [expected]


def test_nothing_that_goes_wrong_ends_the_looking() -> None:
    looks = Event()
    answers: list[Exception | pb.ListStandingResponse] = [
        RuntimeError("never heard of"),
        PeerUnavailable("away"),
        word(k="active"),
    ]

    def ask(since: int) -> pb.ListStandingResponse:
        answer = answers.pop(0) if answers else word(8)
        if isinstance(answer, Exception):
            raise answer
        return answer

    standing = Standing(ask, 60.0)
    with standing.kept(lambda: looks.set() if standing.is_fresh() else None):
        assert looks.wait(20)

    standing.require_key("k", 1)
