"""Sixteen rows on a small federation whose keys the test drew: each cell may fail."""

from collections.abc import Mapping

import numpy as np
import pytest

from core.errors import DataError
from core.leakage import coalitions
from core.leakage.coalitions import Coalition, Eyes, Member, Victim, table
from core.leakage.fidelity import Pictures
from core.leakage.held import Held, KeyName
from core.leakage.schemes.block_key import BlockKey, Pixels
from core.leakage.schemes.random_orthogonal import draw

HIDDEN = 32
VICTIM, MEMBER, THIRD = (
    KeyName(f"spiffe://t/{owner}/data-owner", f"{owner}.m", 1) for owner in "abc"
)
NAMES = (VICTIM, MEMBER, THIRD)
P, K, S, O = Member  # noqa: E741 -- as the table's columns

Rows = Mapping[frozenset[Member], Coalition]


class Federation:
    """What each party would hold, and the truth."""

    def __init__(self, pictures: Pictures, coordinates: Pixels, seed: int = 1) -> None:
        rng = np.random.default_rng(seed)
        self.embedding = rng.standard_normal((HIDDEN, coordinates.dimension))
        self.keys: dict[KeyName, BlockKey] = {n: draw(coordinates, rng) for n in NAMES}
        matrices = {name: key.matrix for name, key in self.keys.items()}
        self.seen = {
            name: self.keys[name].encrypt(pictures[40 * i : 40 * (i + 1)])
            for i, name in enumerate(NAMES)
        }
        self.holdings = {
            P: Held(embedding=self.embedding),
            K: Held(embedding=self.embedding, keys=matrices),
            S: Held(
                issued={n: self.embedding @ a.T for n, a in matrices.items()},
                seen=self.seen,
            ),
            O: Held(keys={MEMBER: matrices[MEMBER]}),
        }
        self.victim = Victim(
            VICTIM,
            pictures[:12],
            matrices[VICTIM],
            self.embedding,
            {n: a for n, a in matrices.items() if n != VICTIM},
        )
        self.leaked = [self.seen[VICTIM][i : i + 1] for i in range(3)]


@pytest.fixture(scope="module")
def federation(pictures: Pictures) -> Federation:
    return Federation(pictures, Pixels(2, 3))


@pytest.fixture(scope="module")
def eyes(pictures: Pictures) -> Eyes:
    return Eyes(pictures[120:], Pixels(2, 3), np.random.default_rng(0), starts=1)


@pytest.fixture(scope="module")
def found(federation: Federation, eyes: Eyes) -> list[Coalition]:
    return list(table(federation.holdings, federation.victim, federation.leaked, eyes))


@pytest.fixture
def rows(found: list[Coalition]) -> Rows:
    return {frozenset(row.members): row for row in found if not row.recorded}


def test_every_coalition_has_a_row(found: list[Coalition], rows: Rows) -> None:
    """Fifteen, the outsider, and an outsider who recorded the ciphertexts."""
    assert len(rows) == 2 ** len(Member)
    assert len(found) == len(rows) + 1
    assert [row.recorded for row in found[:3]] == [False, True, False]


def test_keys_and_embedding_open_where_algebra_reaches(rows: Rows) -> None:
    """With the key holder everything; with the server, anybody's help is enough."""
    for members, row in rows.items():
        exact = K in members or (S in members and len(members) > 1)

        assert row.result.key.recovered is exact, members
        assert row.result.embedding.recovered is (exact or P in members), members
        assert row.result.other_keys is not None
        assert row.result.other_keys.recovered is exact, members


def test_pictures_open_only_where_there_are_ciphertexts(rows: Rows) -> None:
    """Without the server there is nothing to open; that is no protection."""
    for members, row in rows.items():
        pictures = row.result.pictures
        if S not in members:
            assert (pictures.by, pictures.ciphertexts) == (coalitions.NOTHING, 0)
            assert not pictures.recovered
            assert pictures.fidelity is None
            continue
        assert pictures.recovered
        assert pictures.ciphertexts == 40
        assert pictures.fidelity is not None
        exact = pictures.by == coalitions.WITH_KEY
        assert exact is (len(members) > 1)
        assert (pictures.fidelity.ssim > 0.999) is exact


def test_a_leaked_ciphertext_opens_at_once_where_the_key_is(rows: Rows) -> None:
    for members, row in rows.items():
        assert (row.leaked is None) is (S in members)
        if row.leaked is None:
            continue
        pictures = row.leaked.pictures
        assert pictures.ciphertexts == 1
        assert pictures.fidelity is not None
        assert pictures.fidelity.images == 3
        assert (pictures.fidelity.ssim > 0.999) is (K in members)
        assert row.leaked.key.recovered is (K in members)


def test_ciphertexts_alone_give_estimates_of_secrets(rows: Rows) -> None:
    """Of an unrelated key the error is 1.4: the server is nearer to all of them."""
    alone = rows[frozenset({S})].result
    assert alone.other_keys is not None

    for each in (alone.key, alone.embedding, alone.other_keys):
        assert each.by == coalitions.CIPHERTEXT_ONLY
        assert each.error is not None
        assert 1e-3 < each.error < 1.2
    assert alone.other_keys.count == 2


def test_a_members_own_key_is_not_another_owners(rows: Rows) -> None:
    together = rows[frozenset({S, O})].result.other_keys

    assert together is not None
    assert together.count == 1


def test_the_outsider_has_nothing_and_the_recording_one_an_estimate(
    found: list[Coalition],
) -> None:
    outsider, recorder = found[:2]

    assert outsider.result.key.error is None
    assert outsider.result.embedding.error is None
    assert recorder.result.pictures.ciphertexts == 40
    assert recorder.result.key.error is not None
    assert recorder.result.embedding.error is None


def test_another_models_files_open_nothing(
    pictures: Pictures, federation: Federation, eyes: Eyes
) -> None:
    """The oracle: each member's file is exchanged for one that does not belong."""
    other = Federation(pictures, Pixels(2, 3), seed=2).holdings
    false_server = Held(issued=other[S].issued, seen=federation.seen)

    own = federation.holdings
    cases = {
        (P, S): (other[P], own[S]),
        (S, O): (own[S], other[O]),
        (O, S): (own[O], false_server),
        (K, S): (other[K], own[S]),
        (K,): (other[K],),
    }
    for members, parts in cases.items():
        held = Held.together(parts)
        found = coalitions.recover(held, federation.victim, eyes)

        for cell in (found.key, found.embedding, found.other_keys, found.pictures):
            assert cell is not None
            assert not cell.recovered, (members, cell)


def test_a_public_embedding_is_the_outsiders_too(
    federation: Federation, eyes: Eyes
) -> None:
    """And the server alone has every key then."""
    public = Held(embedding=federation.embedding)
    rows = table(
        federation.holdings, federation.victim, federation.leaked, eyes, public
    )
    found = {row.members: row.result for row in rows if not row.recorded}
    outsider, server = found[()], found[S,]

    assert outsider.embedding.recovered
    assert not outsider.key.recovered
    assert server.key.recovered
    assert server.pictures.by == coalitions.WITH_KEY


def test_pictures_of_several_keys_are_attacked_as_one(
    federation: Federation, eyes: Eyes
) -> None:
    """Carried over by the issued embeddings: what a rotation leaves to a server."""
    server = federation.holdings[S]
    pooled = coalitions._pooled(server, VICTIM)[0]

    plain = federation.seen[THIRD] @ federation.keys[THIRD].matrix
    assert pooled[80:] @ federation.keys[VICTIM].matrix == pytest.approx(plain)
    (alone,) = coalitions._pooled(Held(seen=server.seen), VICTIM)
    assert len(alone) == 40


def test_nobody_is_left_out_by_mistake(federation: Federation, eyes: Eyes) -> None:
    fewer = {m: h for m, h in federation.holdings.items() if m != S}

    with pytest.raises(DataError, match="inference server"):
        next(table(fewer, federation.victim, federation.leaked, eyes))


def test_what_is_held_does_not_travel(federation: Federation) -> None:
    held = federation.holdings[K]

    assert "0." not in repr(held)
    with pytest.raises(TypeError, match="neither pickled"):
        held.__reduce__()


def test_an_eye_takes_the_picture_and_not_its_negative(
    federation: Federation, eyes: Eyes
) -> None:
    """And no eye sees a picture where the key is another one."""
    key, other = federation.keys[VICTIM].matrix, federation.keys[THIRD].matrix
    pictures, blocks = federation.victim.pictures, federation.seen[VICTIM][:12]

    assert eyes.look(pictures, blocks, -key) == pytest.approx(pictures)
    assert abs(eyes.look(pictures, blocks, other) - pictures).max() > 0.5
