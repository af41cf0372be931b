"""What happens next to a key version, in words, for each state."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cli.outlook import Outlook, rotation_due_ms
from orchestrator.federation import RotationPolicy
from orchestrator.registry.lifecycle import KeyState
from protos.registry_pb2 import KeyVersion
from protos.workflows_pb2 import Job

OWNER = "spiffe://example.keymixer/st-anna/data-owner"
NOW_MS = 1_750_000_000_000
MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
NEVER = RotationPolicy()


def _next(version: KeyVersion, *jobs: Job, policy: RotationPolicy = NEVER) -> str:
    return Outlook(jobs, policy, NOW_MS).of(version)


def _version(state: str, **fields: Any) -> KeyVersion:
    given = {"created_at_ms": NOW_MS - DAY_MS, "version": 2, **fields}
    return KeyVersion(
        key_id="st-anna.convmixer",
        owner=OWNER,
        model="convmixer",
        state=state,
        **given,
    )


def _job(subject: str, step: str, state: str = "waiting", why: str = "") -> Job:
    return Job(id=9, subject=subject, step=step, state=state, why=why, owner=OWNER)


KEY = "key:st-anna.convmixer"


@pytest.mark.parametrize("state", list(KeyState))
def test_every_state_has_an_outlook(state: str) -> None:
    assert (_next(_version(state)) == "") == (state == "destroyed")


@pytest.mark.parametrize(
    ("version", "jobs", "expected"),
    [
        (
            _version("pre_active"),
            [_job(KEY, "confirm", why="for confirmation")],
            "waits for st-anna to fetch it",
        ),
        (_version("pre_active"), [_job(KEY, "draw", "ready")], "is drawn"),
        (
            _version("pre_active"),
            [_job(KEY, "draw", why="the key holder is away")],
            "waits: the key holder is away",
        ),
        (_version("pre_active"), [_job(KEY, "send", "ready")], "the model is issued"),
        (_version("pre_active"), [], "no job works on it: revoke it"),
        (_version("active"), [], "served until it is rotated"),
        (_version("active"), [_job(KEY, "send")], "retires once its successor is live"),
        # In the overlap the new version is the active one, and nothing awaits it.
        (_version("active"), [_job(KEY, "overlap")], "served until it is rotated"),
        (
            _version("retiring", retire_at_ms=NOW_MS + 8 * MINUTE_MS),
            [_job(KEY, "overlap")],
            "refused in 8m",
        ),
        (_version("retiring", retire_at_ms=NOW_MS), [], "refused now"),
        (_version("suspended"), [], "refused until it is resumed"),
        (
            _version("suspended"),
            [_job("recover:convmixer", "await_release")],
            "waits for a clean release (job 9)",
        ),
        (
            _version("suspended"),
            [_job("recover:convmixer", "children")],
            "is replaced in the recovery (job 9)",
        ),
        (
            _version("compromised"),
            [_job("recover:convmixer", "rekey")],
            "destroyed in the recovery (job 9)",
        ),
        (_version("compromised"), [], "refused for good: revoke it"),
        (
            _version("destroy_scheduled", destroy_at_ms=NOW_MS + 7 * DAY_MS - HOUR_MS),
            [_job(f"{KEY}/2", "window", why="until the window ends")],
            "destroyed in 6d 23h",
        ),
        (
            _version("destroy_scheduled", destroy_at_ms=NOW_MS - 1),
            [_job(f"{KEY}/2", "window", why="approval 3")],
            "waits: approval 3",
        ),
        (
            _version("destroy_scheduled", destroy_at_ms=NOW_MS - 1),
            [_job(f"{KEY}/1", "window", why="of another version")],
            "destroyed now",
        ),
    ],
)
def test_the_outlook_says_what_happens_and_when(
    version: KeyVersion, jobs: list[Job], expected: str
) -> None:
    assert expected in _next(version, *jobs)


def test_a_job_that_needs_an_operator_comes_before_everything_else() -> None:
    version = _version("destroy_scheduled", destroy_at_ms=NOW_MS + DAY_MS)
    stuck = _job(f"{KEY}/2", "destroy", "needs_operator", "no such receipt")

    assert _next(version, stuck) == "job 9 needs an operator"


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({"max_age": "3d"}, "rotates in 2d (policy)"),
        ({"max_age": "1d"}, "rotates now (policy)"),
        ({"max_images": 1_500}, "rotates after 1,200 more images (policy)"),
        ({"max_images": 300}, "rotates now (policy)"),
        (
            {"max_age": "3d", "max_images": 1_500},
            "rotates in 2d, or after 1,200 more images (policy)",
        ),
    ],
)
def test_the_policy_says_when_an_active_version_is_rotated(
    policy: dict[str, Any], expected: str
) -> None:
    version = _version("active", images_used=300)

    assert expected == _next(version, policy=RotationPolicy.model_validate(policy))


@given(st.integers(0, 365 * 24 * 3600), st.times())
def test_a_daily_time_is_the_first_one_after_the_version_was_made(
    second: int, at: Any
) -> None:
    """Against the slow way: look at one minute after the other."""
    created = datetime(2027, 1, 1, tzinfo=UTC) + timedelta(seconds=second)
    policy = RotationPolicy(daily_at=f"{at:%H:%M}")
    minute = created.replace(second=0) + timedelta(minutes=1)
    while f"{minute:%H:%M}" != policy.daily_at:
        minute += timedelta(minutes=1)

    due_ms = rotation_due_ms(policy, round(created.timestamp() * 1000))

    assert due_ms == minute.timestamp() * 1000


def test_a_moment_before_the_version_was_made_asks_for_nothing() -> None:
    created = datetime.fromtimestamp(NOW_MS / 1000, tz=UTC)
    before, after = created - timedelta(hours=1), created + timedelta(hours=1)

    assert rotation_due_ms(RotationPolicy(at=[before]), NOW_MS) is None
    assert rotation_due_ms(RotationPolicy(at=[before, after]), NOW_MS) == (
        NOW_MS + HOUR_MS
    )


def test_the_earliest_of_all_times_counts() -> None:
    soon = datetime.fromtimestamp(NOW_MS / 1000, tz=UTC) + timedelta(hours=1)

    assert rotation_due_ms(RotationPolicy(max_age=86_400, at=[soon]), NOW_MS) == (
        NOW_MS + HOUR_MS
    )
