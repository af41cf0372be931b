"""Keys change while their owners ask: what is ordered, and what is waited for."""

import io
import json
from collections import Counter
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from core.errors import DataError, Unavailable
from orchestrator.federation import (
    Promote,
    Release,
    Resume,
    Revoke,
    RollBack,
    Rotate,
    RotateAll,
    Suspend,
    TrafficEvent,
    Wait,
    read_federation,
)
from orchestrator.operator import Operator
from orchestrator.simulation import crowd as crowd_module
from orchestrator.simulation.crowd import Crowd, TooSlow
from orchestrator.simulation.narrator import Narrator
from orchestrator.simulation.processes import Processes
from orchestrator.simulation.requests import read_requests
from orchestrator.simulation.scene import Scene
from orchestrator.simulation.setup import Stage
from orchestrator.simulation.traffic import _PLAYERS
from orchestrator.simulation.workspace import Workspace
from parties.data_owner.traffic import Asked, Released
from protos import registry_pb2
from protos import workflows_pb2 as pb

OWNERS = ("post-office", "savings-bank", "archive")
NEWEST = 2


@dataclass
class Desk:
    """An orchestrator that does as it is told, and remembers what it was told."""

    told: list[str] = field(default_factory=list)
    # What it lists, look by look; the last look stays.
    looks: list[list[tuple[str, str]]] = field(default_factory=lambda: [[]])
    left_out: dict[str, str] = field(default_factory=dict)
    # For which keys the newest version is live, look by look; the last look stays.
    lives: list[list[str]] = field(default_factory=lambda: [[]])
    stuck: list[pb.Job] = field(default_factory=list)

    def key_versions(self) -> list[registry_pb2.KeyVersion]:
        self.told.append("look")
        look = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        return [
            registry_pb2.KeyVersion(key_id=key_id, version=1, state=state)
            for key_id, state in look
        ]

    def rotate_keys(
        self, model: str, overlap_s: float, *, owner: str = ""
    ) -> pb.RotateKeysResponse:
        self.told.append(f"rotate {owner.split('/')[-2] if owner else 'all'}")
        owners = [owner] if owner else [_spiffe(each) for each in OWNERS]
        return pb.RotateKeysResponse(
            rotations=[
                pb.Rotation(owner=each, left_out=self.left_out.get(each, ""))
                for each in owners
            ]
        )

    def suspend_key(self, owner: str, model: str, reason: str) -> None:
        self.told.append(f"suspend {owner.split('/')[-2]}: {reason}")

    def resume_key(self, owner: str, model: str) -> None:
        self.told.append(f"resume {owner.split('/')[-2]}")

    def revoke_key(self, owner: str, model: str, reason: str) -> pb.RevokeKeyResponse:
        self.told.append(f"revoke {owner.split('/')[-2]}: {reason}")
        return pb.RevokeKeyResponse()

    def set_alias(self, model: str, alias: str, version: int) -> None:
        self.told.append(f"{alias} of {model} is {version}")

    def issued(self) -> list[registry_pb2.IssuedModel]:
        live = self.lives.pop(0) if len(self.lives) > 1 else self.lives[0]
        states = dict.fromkeys(live, "live")
        return [
            registry_pb2.IssuedModel(
                key_id=key_id,
                key_version=1,
                model_version=version,
                state=states.get(key_id, "pending") if version == NEWEST else "live",
            )
            for key_id in ("a", "b")
            for version in (1, NEWEST)
        ]

    def jobs(self, *, open_only: bool = False) -> list[pb.Job]:
        return self.stuck


def _spiffe(owner: str) -> str:
    return f"spiffe://digits.keymixer/{owner}/data-owner"


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def scene(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """The digits scenario's owners, of which nobody really asks."""
    monkeypatch.setattr(crowd_module, "_POLL_S", 0.0)
    federation = read_federation(Path("deploy/scenarios/digits.yaml"))
    stage = Stage(
        Workspace(tmp_path, federation),
        Processes(tmp_path, tmp_path / "processes.json"),
        Narrator(Console(file=io.StringIO())),
        "digits",
    )
    crowd = Crowd(stage, lambda _done, _total: None, Counter(dict.fromkeys(OWNERS, 5)))
    return Scene(stage, cast("Operator", desk), crowd)


def play(scene: Scene, event: TrafficEvent) -> None:
    _PLAYERS[type(event)](scene, event)


def test_every_order_is_given_and_noted_with_its_times(
    scene: Scene, desk: Desk
) -> None:
    play(scene, Rotate(event="rotate", owner="archive"))
    play(scene, Suspend(event="suspend", owner="archive", reason="lost"))
    play(scene, Resume(event="resume", owner="archive"))
    play(scene, Revoke(event="revoke", owner="archive", reason="ended"))

    assert desk.told == [
        *("rotate archive", "suspend archive: lost"),
        *("resume archive", "revoke archive: ended"),
    ]
    orders = scene.stage.orders
    assert [("rotate", 1), ("suspend", 0), ("resume", 0), ("revoke", 0)] == [
        (order.action, order.rotations) for order in orders
    ]
    times = [t for o in orders for t in (o.called_ms, o.acknowledged_ms)]
    assert times == sorted(times)


def test_all_keys_are_rotated_once_the_last_rotation_has_ended(
    scene: Scene, desk: Desk
) -> None:
    """A version that is drawn or retiring is waited for; one to be destroyed is not."""
    desk.looks = [
        [("a", "pre_active"), ("b", "active")],
        [("a", "active"), ("a", "retiring")],
        [("a", "active"), ("a", "destroy_scheduled")],
    ]

    play(scene, RotateAll(event="rotate_all"))

    assert desk.told == ["look", "look", "look", "rotate all"]
    assert [("rotate", "", 3)] == [
        (order.action, order.owner, order.rotations) for order in scene.stage.orders
    ]


def test_an_owner_in_good_standing_must_not_be_left_out(
    scene: Scene, desk: Desk
) -> None:
    desk.left_out[_spiffe("archive")] = "a rotation is open"

    with pytest.raises(Unavailable, match=r"archive is not rotated: a rotation is"):
        play(scene, RotateAll(event="rotate_all"))


def test_a_revoked_owner_is_left_out_and_not_counted(scene: Scene, desk: Desk) -> None:
    play(scene, Revoke(event="revoke", owner="archive"))
    desk.left_out[_spiffe("archive")] = "its key has ended"

    play(scene, RotateAll(event="rotate_all"))

    assert scene.stage.orders[-1].rotations == 2


@pytest.mark.parametrize(
    ("until", "looks"), [("live", 2), ("rotated", 3), ("destroyed", 4)]
)
def test_a_wait_ends_with_the_state_it_is_for(
    scene: Scene, desk: Desk, until: Any, looks: int
) -> None:
    states = ["pre_active", "retiring", "destroy_scheduled", "destroyed"]
    desk.looks = [[("a", state)] for state in states]

    play(scene, Wait(event="wait", until=until))

    assert ["look"] * looks == desk.told


@pytest.fixture
def tried(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """Two versions are registered: the newest one has just been released."""
    scene.stage.releases[1] = tmp_path

    def released(stage: Stage, alias: str) -> int:
        stage.releases[NEWEST] = tmp_path
        cast("Any", scene.connected).told.append(f"release as {alias}")
        return NEWEST

    monkeypatch.setattr("orchestrator.simulation.traffic.release", released)
    play(scene, Release(event="release"))
    return scene


def test_a_release_is_the_candidate_until_it_is_promoted(
    tried: Scene, desk: Desk
) -> None:
    play(tried, Promote(event="promote"))

    assert ["release as candidate", "champion of digits is 2"] == desk.told
    assert [("release", 2), ("promote", 2)] == [
        (order.action, order.version) for order in tried.stage.orders
    ]
    assert 2 == tried.champion


def test_a_release_is_rolled_back_to_the_champion_there_is(
    tried: Scene, desk: Desk
) -> None:
    """To the one that was promoted last, once one was."""
    play(tried, RollBack(event="roll_back"))
    assert "candidate of digits is 1" == desk.told[-1]

    play(tried, Promote(event="promote"))
    tried.stage.releases[3] = tried.stage.releases[2]
    play(tried, RollBack(event="roll_back"))
    assert "candidate of digits is 2" == desk.told[-1]
    assert ("roll back", 3) == (
        tried.stage.orders[-1].action,
        tried.stage.orders[-1].version,
    )


def test_the_newest_version_is_issued_once_it_is_live_for_every_key_in_use(
    tried: Scene, desk: Desk
) -> None:
    """A key that has ended is not waited for, nor one that is to come."""
    desk.looks = [[("a", "active"), ("b", "active"), ("c", "destroyed")]]
    desk.lives = [[], ["a"], ["a", "b"]]

    play(tried, Wait(event="wait", until="issued"))

    assert 3 == desk.told.count("look")


def test_every_owner_is_to_have_so_many_answers_of_the_newest_version(
    tried: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look at the clock, the one that has the fewest gets one more."""
    counts = {owner: Counter({"1": 9, "2": n}) for n, owner in enumerate(OWNERS)}
    tried.crowd.answered.update(counts)
    monkeypatch.setattr(
        "orchestrator.simulation.crowd.time.sleep",
        lambda _: min(counts.values(), key=lambda each: each["2"]).update(["2"]),
    )

    play(tried, Wait(event="wait", tried=4))

    assert {4} == {each["2"] for each in counts.values()}


def test_requests_are_counted_from_the_first_order_on(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """15 were made before; each look at the clock, somebody makes one more."""
    play(scene, Rotate(event="rotate", owner="archive"))
    monkeypatch.setattr(
        "orchestrator.simulation.crowd.time.sleep",
        lambda _: scene.crowd.made.update(["archive"]),
    )

    play(scene, Wait(event="wait", requests=7))

    assert scene.crowd.made.total() == 15 + 7


def test_who_waits_in_vain_is_told_what_for_and_which_job_is_stuck(
    scene: Scene, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crowd_module, "WAIT_S", 0.0)
    desk.looks = [[("archive.digits", "retiring")]]
    desk.stuck = [
        pb.Job(id=7, kind="rotate", subject="key:x", state="needs_operator", why="sad")
    ]

    with pytest.raises(TooSlow, match=r"archive\.digits v1 retiring, job 7.*sad"):
        play(scene, Wait(event="wait", until="rotated"))


def test_an_owner_that_stops_asking_by_itself_is_an_error(scene: Scene) -> None:
    gone: Future[list[Any]] = Future()
    gone.set_result([])
    scene.crowd._asks["archive"] = gone

    with pytest.raises(Unavailable, match="archive stopped asking by itself"):
        play(scene, Wait(event="wait", seconds=600))


def test_an_owner_that_fails_is_the_error(scene: Scene) -> None:
    failed: Future[list[Any]] = Future()
    failed.set_exception(DataError("no images"))
    scene.crowd._asks["archive"] = failed

    with pytest.raises(DataError, match="no images"):
        play(scene, Wait(event="wait", seconds=600))


# --- what an owner writes down is what the referee reads ---


def test_a_line_is_read_as_it_was_written(tmp_path: Path) -> None:
    released = (Released(7, "r-1", 2, 3),)
    asked = Asked(1.5, 2.5, "answered", "", 2, 4, 1, 2, 3, released, ((0.25, -1.0),))
    path = tmp_path / "traffic-1.ndjson"
    path.write_text(asked.line())

    (read,) = read_requests(path)

    assert (1.0, 2, 4, 1, 2, 3) == (
        *(read.milliseconds, read.sent, read.first),
        *(read.images, read.key_version, read.model_version),
    )
    assert [[0.25, -1.0]] == read.logits.tolist()
    assert [asdict(each) for each in released] == [asdict(r) for r in read.released]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda line: line[:-10],
        lambda line: "[]",
        lambda line: json.dumps({**json.loads(line), "outcome": "vanished"}),
        lambda line: json.dumps({**json.loads(line), "more": 1}),
        lambda line: json.dumps({**json.loads(line), "released": [{}]}),
        lambda line: json.dumps({**json.loads(line), "logits": [[1], [1, 2]]}),
    ],
    ids=["torn", "no object", "no outcome", "a field more", "no receipt", "ragged"],
)
def test_a_line_that_is_none_is_named(tmp_path: Path, spoil: Any) -> None:
    line = Asked(1.0, 2.0, "refused", "NoKey", 0, 0, 1).line()
    path = tmp_path / "traffic-1.ndjson"
    path.write_text(line + spoil(line.strip()) + "\n")

    with pytest.raises(DataError, match=r"traffic-1\.ndjson, line 2"):
        read_requests(path)


def test_a_file_that_is_not_there_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_requests(tmp_path / "traffic-1.ndjson")
