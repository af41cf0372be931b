"""Several sites in one process: what they learn together, and how it goes on."""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, RecordDict
from numpy import ndarray
from torch import nn

from core.canonical import canonical
from core.convmixer import ConvMixer
from core.datasets import load
from core.errors import CorruptFileError
from core.preprocessing import normalise
from core.principal import moments_of
from core.rpc.party import ensure_signing_key
from core.shield import ShieldPlan
from core.statements import MANIFEST, verify
from core.training import Examples, evaluate, fit_steadily
from core.wire import file_digest
from parties.model_provider.errors import TrainingChangedError, TrainingRunsError
from parties.model_provider.federated import site as site_module
from parties.model_provider.federated.ending import Finished
from parties.model_provider.federated.errors import (
    SitesDisagreeError,
)
from parties.model_provider.federated.in_process import (
    FLOWER,
    in_process,
    train_in_process,
)
from parties.model_provider.federated.plan import NO_SEED, FederatedPlan
from parties.model_provider.federated.server_app import app as server_app
from parties.model_provider.federated.site import mixed_seed, model_from, state_of
from parties.model_provider.federated.standing import last_round
from parties.model_provider.place import place_of
from parties.model_provider.release import read_release
from parties.model_provider.training import (
    FROM_THE_SYSTEM,
    first_model,
    preprocessing_of,
)
from parties.model_provider.weights import model_of
from tests.unit.parties.federated.sites import few_digits, small_plan


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return few_digits(tmp_path_factory.mktemp("data") / "digits.npz")


def weights(folder: Path) -> dict[str, ndarray]:
    return state_of(model_of(read_release(folder / "releases" / "digits")))


def examples(data: Path, split: Any) -> Examples:
    whole = load(data, split)
    preprocessing = preprocessing_of(load(data, "train").images)
    return Examples(normalise(whole.images, preprocessing), whole.labels.copy())


def one_step(plan: FederatedPlan) -> FederatedPlan:
    """One step of SGD on all of a site's images."""
    return replace(plan, rounds=1, optimiser="sgd", max_lr=0.5, batch=1000, pad=0)


@pytest.mark.parametrize("spec", ["highpass:1", "noise:0.1"])
def test_sites_make_the_shield_that_one_with_all_images_would(
    digits: Path, tmp_path: Path, spec: str
) -> None:
    """To the bit; and what they train reads what it leaves."""
    plan = small_plan(digits, partition="dirichlet:0.5", rounds=1, shield=spec)
    done = train_in_process(plan, tmp_path)
    manifest = read_release(done.release).manifest
    whole = load(digits, "train").images
    expected = ShieldPlan.parse(spec).make(
        preprocessing_of(whole), plan.patch_size, moments_of(whole, plan.patch_size)
    )

    assert manifest.shield == expected is not None
    assert manifest.architecture.channels == expected.outputs
    assert manifest.lineage["recipe"]["shield"] == spec
    split = json.loads((done.release / "split.json").read_text())
    assert split["shield"] == expected.to_dict()


def freeze_statistics(model: nn.Module) -> None:
    """Let BatchNorm use what it remembers also in training."""
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()
            part.train = partial(_as_it_is, part)  # type: ignore[method-assign, assignment]


def _as_it_is(part: nn.Module, _mode: bool = True) -> nn.Module:
    return part


def pooled_step(plan: FederatedPlan, data: Path, *, frozen: bool) -> ConvMixer:
    """What one party with all images would do."""
    architecture = plan.architecture((8, 8, 1), 10)
    model = first_model(architecture, plan.seed, plan.seed)
    if frozen:
        freeze_statistics(model)
    recipe = plan.recipe(plan.max_lr, 0)
    fit_steadily(model, examples(data, "train"), recipe, "sgd")
    return model


def test_one_full_step_of_every_site_is_one_step_on_all_images(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FedAvg's own promise, with sites of unlike sizes and classes.

    It holds for a network that does not look at its batch; so BatchNorm is frozen.
    """
    plan = one_step(small_plan(digits, partition="dirichlet:0.5"))

    def frozen(model: ConvMixer, *rest: Any) -> tuple[float, ...]:
        freeze_statistics(model)
        return fit_steadily(model, *rest)

    monkeypatch.setattr(site_module, "fit_steadily", frozen)
    done = train_in_process(plan, tmp_path)

    assert len({site["train"] for site in done.sites}) > 1
    expected = state_of(pooled_step(plan, digits, frozen=True))
    for name, array in weights(tmp_path).items():
        np.testing.assert_allclose(array, expected[name], atol=2e-6, err_msg=name)


def test_sites_with_the_same_images_learn_what_one_would(tmp_path: Path) -> None:
    """Then BatchNorm sees the same batch everywhere, and nothing need be frozen."""
    (tmp_path / "data").mkdir()
    for name in ("north", "south"):
        few_digits(tmp_path / "data" / f"{name}.npz", train=60)
    data = tmp_path / "data"
    plan = one_step(small_plan(data, partition="by-organisation", sites=2))
    train_in_process(plan, tmp_path)

    expected = state_of(pooled_step(plan, data / "north.npz", frozen=False))
    for name, array in weights(tmp_path).items():
        np.testing.assert_allclose(array, expected[name], atol=5e-6, err_msg=name)


@pytest.fixture(scope="module")
def whole(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    train_in_process(small_plan(digits), folder)
    return folder


def test_sites_are_scored_as_one_look_at_all_test_images_would(
    digits: Path, tmp_path: Path
) -> None:
    done = train_in_process(small_plan(digits, partition="dirichlet:1"), tmp_path)
    release = read_release(done.release)

    assert done.accuracy == pytest.approx(
        evaluate(model_of(release), examples(digits, "test"))
    )
    assert release.manifest.metrics == {"test_accuracy": done.accuracy}
    assert release.manifest.preprocessing == preprocessing_of(
        load(digits, "train").images
    )


def test_the_release_is_signed_and_names_what_each_site_saw(
    digits: Path, whole: Path
) -> None:
    folder = whole / "releases" / "digits"
    content = read_release(folder)
    key = ensure_signing_key(whole).public_key().public_bytes_raw()
    verify(
        key,
        MANIFEST,
        content.manifest.to_bytes(),
        (folder / "manifest.sig").read_bytes(),
    )
    split = (folder / "split.json").read_bytes()
    lineage = content.manifest.lineage
    train, test = load(digits, "train"), load(digits, "test")
    again = site_module.open_site(
        {"partition-id": 1, "num-partitions": 3}, small_plan(digits).to_config()
    )

    assert lineage["data"]["split_digest"] == file_digest(split)
    assert split == canonical(json.loads(split))
    named = lineage["data"]["sites"][1]
    assert (named["site"], named["train_digest"]) == ("site-2", again.train.digest)
    assert named["test_digest"] == again.test.digest
    manifest = json.loads(split)
    assert sum(site["train"] for site in manifest["sites"]) == len(train)
    assert sum(site["test"] for site in manifest["sites"]) == len(test)
    counted = sum(sum(site["classes"].values()) for site in manifest["sites"])
    assert counted == len(train)
    assert manifest["partition"] == lineage["recipe"]["partition"] == "iid"
    assert lineage["seed"] == 5
    assert lineage["absent"] == {}
    assert f"flwr {FLOWER}" in lineage["code"]


def test_batches_are_counted_over_sites_and_rounds(whole: Path) -> None:
    """An integer: 3 sites, 2 rounds, 30 images in batches of 15."""
    state = model_of(read_release(whole / "releases" / "digits")).state_dict()
    counts = [t for name, t in state.items() if name.endswith("num_batches_tracked")]

    assert [12] * 3 == [int(count) for count in counts]


def test_nothing_of_an_ended_training_is_left_but_its_release(whole: Path) -> None:
    assert ["lock"] == [path.name for path in (whole / "training/digits").iterdir()]


def digests(finished: Finished) -> dict[str, str]:
    model = finished.told()["model"]
    return {name: model[name] for name in ("embedding_digest", "backbone_digest")}


class Killed(BaseException):
    """As if the process was gone."""


def killed_after(round_: int) -> Any:
    def tell(event: str, fields: Mapping[str, Any]) -> None:
        if event == "round" and fields["round"] == round_:
            raise Killed

    return tell


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam", "fedprox"])
def test_a_killed_training_ends_with_the_weights_it_would_have_had(
    strategy: str, digits: Path, tmp_path: Path
) -> None:
    plan = small_plan(digits, strategy=strategy, rounds=3)
    straight = train_in_process(plan, tmp_path / "straight")
    told: list[str] = []
    for round_ in (1, 2):
        with pytest.raises(Killed):
            train_in_process(plan, tmp_path / "killed", killed_after(round_))
    resumed = train_in_process(
        plan, tmp_path / "killed", lambda event, _: told.append(event)
    )

    assert told == ["sites", "resumed", "round"]
    assert resumed.told()["model"].items() >= digests(straight).items()
    assert len(resumed.rounds) == 3
    assert [r["sites"] for r in resumed.rounds] == [r["sites"] for r in straight.rounds]


def test_a_training_killed_before_its_first_round_keeps_its_drawn_weights(
    digits: Path, tmp_path: Path
) -> None:
    """They come from the operating system, and cannot be drawn again."""
    plan = small_plan(digits, seed=NO_SEED, rounds=1)
    with pytest.raises(Killed):
        train_in_process(plan, tmp_path, killed_after(1))
    with place_of(tmp_path, "digits") as place:
        standing = last_round(place)
    assert standing is not None
    done = train_in_process(plan, tmp_path)

    assert done.manifest.lineage["seed"] == FROM_THE_SYSTEM
    for name, array in weights(tmp_path).items():
        assert np.array_equal(array, standing[0].state[name]), name


def interrupted(plan: FederatedPlan, folder: Path) -> None:
    with pytest.raises(Killed):
        train_in_process(plan, folder, killed_after(1))


def test_an_unfinished_training_does_not_go_on_with_other_options(
    digits: Path, tmp_path: Path
) -> None:
    plan = small_plan(digits)
    interrupted(plan, tmp_path)

    with pytest.raises(TrainingChangedError, match="max-lr"):
        train_in_process(replace(plan, max_lr=0.5), tmp_path)
    done = train_in_process(replace(plan, max_lr=0.5), tmp_path, restart=True)
    assert len(done.rounds) == plan.rounds


def test_it_does_not_go_on_with_other_images(tmp_path: Path) -> None:
    data = few_digits(tmp_path / "digits.npz")
    plan = small_plan(data)
    interrupted(plan, tmp_path)
    few_digits(data, train=81)
    site_module._load.cache_clear()
    site_module._dealt.cache_clear()

    with pytest.raises(TrainingChangedError, match="site site-1"):
        train_in_process(plan, tmp_path)


def test_a_round_that_was_changed_on_disk_is_refused(
    digits: Path, tmp_path: Path
) -> None:
    plan = small_plan(digits)
    interrupted(plan, tmp_path)
    (state,) = (tmp_path / "training" / "digits").glob("round-*.safetensors")
    content = bytearray(state.read_bytes())
    content[-1] ^= 1
    state.write_bytes(content)

    assert state.stat().st_mode & 0o077 == 0
    with pytest.raises(CorruptFileError, match="was changed"):
        train_in_process(plan, tmp_path)


def test_two_processes_do_not_train_in_one_folder(digits: Path, tmp_path: Path) -> None:
    with (
        place_of(tmp_path, "digits"),
        pytest.raises(TrainingRunsError),
    ):
        train_in_process(small_plan(digits), tmp_path)


def test_organisations_without_some_classes_train_one_model(tmp_path: Path) -> None:
    """Classes are those of all, by name; one has fours, the other has none."""
    whole = load("digits", "train")
    for name, digit in (("north", 4), ("south", 7)):
        rows = np.flatnonzero(np.isin(whole.labels, (0, digit)))[:40]
        (tmp_path / "data").mkdir(exist_ok=True)
        labels = (whole.labels[rows] == digit).astype(np.int64)
        np.savez(
            tmp_path / "data" / f"{name}.npz",
            images=whole.images[rows],
            labels=labels,
            classes=np.array(["0", str(digit)]),
        )
    plan = small_plan(tmp_path / "data", partition="by-organisation", sites=2)
    done = train_in_process(plan, tmp_path)

    assert ["north", "south"] == [site["site"] for site in done.sites]
    assert read_release(done.release).manifest.classes == ("0", "4", "7")
    assert "partition" not in json.loads((done.release / "split.json").read_text())


def test_sites_with_images_of_two_sizes_are_refused(tmp_path: Path) -> None:
    for name, size in (("north", 8), ("south", 10)):
        (tmp_path / "data").mkdir(exist_ok=True)
        np.savez(
            tmp_path / "data" / f"{name}.npz",
            images=np.zeros((10, size, size), np.uint8),
            labels=np.arange(10) % 2,
        )
    plan = small_plan(tmp_path / "data", partition="by-organisation", sites=2)

    with pytest.raises(SitesDisagreeError, match="south"):
        train_in_process(plan, tmp_path)


def test_flowers_server_app_trains_the_same_model(
    digits: Path, whole: Path, tmp_path: Path
) -> None:
    """As Flower's runtimes start it, from a run's configuration."""
    plan = small_plan(digits)
    config = {**plan.to_config(), "folder": str(tmp_path)}
    with in_process(plan) as grid:
        server_app(grid, Context(1, 1, {}, RecordDict(), config))

    expected = weights(whole)
    for name, array in weights(tmp_path).items():
        assert np.array_equal(array, expected[name]), name


def test_fedprox_pays_for_the_way_from_the_rounds_weights() -> None:
    """`mu/2 |w - w_t|^2` over all weights, by NumPy."""
    model = first_model(small_plan("x").architecture((8, 8, 1), 10), 1, 1)
    model.requires_grad_(requires_grad=True)
    penalty = site_module._proximal(model, 0.3)
    assert penalty is not None
    before = [weight.detach().clone().numpy() for weight in model.parameters()]
    for number, weight in enumerate(model.parameters()):
        weight.data += 0.01 * number
    pairs = zip(model.parameters(), before, strict=True)
    squares = sum(((w.detach().numpy() - b) ** 2).sum() for w, b in pairs)

    assert penalty(model).item() == pytest.approx(0.15 * squares, rel=1e-5)
    assert site_module._proximal(model, 0.0) is None


def test_seeds_of_rounds_and_sites_differ() -> None:
    seeds = {mixed_seed("round", seed, n) for seed in (0, 1) for n in range(50)}
    seeds |= {mixed_seed(seed, f"site-{n}") for seed in (0, 1) for n in range(50)}

    assert len(seeds) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_state_makes_the_network_again(whole: Path) -> None:
    model = model_of(read_release(whole / "releases" / "digits"))
    again = model_from(model.architecture, state_of(model), batches=12)

    for name, tensor in model.state_dict().items():
        assert np.array_equal(tensor.numpy(), again.state_dict()[name].numpy()), name


def test_the_model_is_as_good_as_its_rounds_say(whole: Path) -> None:
    curve = json.loads((whole / "releases/digits/curve.json").read_text())
    manifest = read_release(whole / "releases" / "digits").manifest

    assert [1, 2] == [point["epoch"] for point in curve]
    assert curve[-1]["accuracy"] == manifest.metrics["test_accuracy"]
