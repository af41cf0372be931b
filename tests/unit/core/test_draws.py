"""What was drawn can be drawn again, by whoever has the seeds."""

from pathlib import Path

import numpy as np
import pytest

from core.draws import RecordedEntropy, RepeatedEntropy, repeated, to_arrays
from core.errors import DataError
from core.normals import bytes_for, normals


def test_a_draw_is_made_again_in_other_pieces(tmp_path: Path) -> None:
    recorded = RecordedEntropy()
    first = [normals(3, 5, recorded), normals(2, 5, recorded)]
    recorded.keep(bytes_for(5, 5))
    np.savez(tmp_path / "draws.npz", allow_pickle=False, **to_arrays(recorded.kept))

    again = normals(5, 5, repeated(tmp_path / "draws.npz"))

    np.testing.assert_array_equal(np.concatenate(first), again)


def test_what_was_drawn_for_a_refused_request_is_forgotten() -> None:
    recorded = RecordedEntropy()
    recorded(64)
    used = recorded(64)
    recorded.keep(64)
    recorded.keep(0)
    more = recorded(32)
    recorded.keep(32)

    assert used + more == RepeatedEntropy(recorded.kept)(96)


def test_every_draw_is_another_one() -> None:
    recorded = RecordedEntropy()

    assert recorded(64) != recorded(64)
    assert RecordedEntropy()(64) != RecordedEntropy()(64)


def test_more_than_was_drawn_is_refused() -> None:
    with pytest.raises(DataError):
        RepeatedEntropy([])(1)


def test_a_file_without_draws_has_none(tmp_path: Path) -> None:
    np.savez(tmp_path / "answers.npz", logits=np.zeros((1, 2)))

    with pytest.raises(DataError):
        repeated(tmp_path / "answers.npz")(1)
