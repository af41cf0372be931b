"""An owner's client and real servers with a shielded model, over mutual TLS."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from google.protobuf.json_format import MessageToDict
from rich.console import Console

from core.datasets.npz import load_arrays
from core.draws import Draw, RecordedEntropy, RepeatedEntropy
from core.encoding import FP32
from core.normals import bytes_for
from core.rpc.channel import open_channel
from core.rpc.identity import INFERENCE_SERVER, load_identity
from orchestrator.simulation.narrator import Narrator
from orchestrator.simulation.run import running
from orchestrator.simulation.setup import Stage, bring_up
from orchestrator.simulation.training import release_folder
from orchestrator.simulation.workspace import create_workspace
from parties.data_owner.bulk import predict_many
from parties.data_owner.client import Client, open_client
from parties.data_owner.inference import Pixels, request_for
from parties.model_provider.release import read_release
from parties.model_provider.weights import plain_logits
from protos import open_inference_pb2 as pb
from protos.open_inference_pb2_grpc import GRPCInferenceServiceStub

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@dataclass(frozen=True, eq=False)
class Shielded:
    """A federation that serves a shielded model, and one of its owners."""

    stage: Stage
    spec: str
    pixels: Pixels

    @property
    def owner(self) -> Path:
        return self.stage.workspace.owner_folder(self.stage.owners[0])

    @property
    def noisy(self) -> bool:
        return self.spec.startswith("noise")

    def plain(self, pixels: Pixels, draws: Sequence[Draw]) -> np.ndarray:
        release = read_release(release_folder(self.stage.workspace, self.stage.model))
        return plain_logits(release, pixels, RepeatedEntropy(draws))


@pytest.fixture(scope="module", params=["highpass:1", "noise:0.2", "magnitude:1"])
def federation(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shielded]:
    folder = tmp_path_factory.mktemp("shielded")
    content = yaml.safe_load(Path("deploy/scenarios/digits.yaml").read_text())
    content["models"][0]["shield"] = request.param
    content["models"][0]["training"]["epochs"] = 1
    content["simulation"] |= {"images": 60, "timeline": []}
    scenario = folder / "federation.yaml"
    scenario.write_text(yaml.safe_dump(content))
    workspace = create_workspace(folder, scenario)
    with running(workspace, Narrator(Console(quiet=True)), "digits") as stage:
        bring_up(stage, retrain=True)
        owner = workspace.owner_folder(stage.owners[0])
        yield Shielded(stage, request.param, load_arrays(owner / "images.npz")[0])


def asked_with_draws(client: Client, pixels: Pixels) -> tuple[np.ndarray, list[Draw]]:
    client.entropy = drawn = RecordedEntropy()
    logits = client.predict(pixels).logits
    noisy = any(client.use().manifest.shield.deviations)  # type: ignore[union-attr]
    drawn.keep(bytes_for(len(pixels), pixels[0].size) if noisy else 0)
    return logits, drawn.kept


def test_the_answer_is_the_plain_shielded_models_for_the_same_draw(
    federation: Shielded,
) -> None:
    with open_client(federation.owner) as client:
        logits, draws = asked_with_draws(client, federation.pixels)
    plain = federation.plain(federation.pixels, draws)

    assert bool(draws) == federation.noisy
    np.testing.assert_allclose(logits, plain, atol=1e-4)


def test_two_requests_about_one_picture_differ_under_noise_and_only_then(
    federation: Shielded,
) -> None:
    """Also what the client itself sends, on either way, and both are answered."""
    one = federation.pixels[:1]
    with open_client(federation.owner) as client:
        use = client.use()
        sent = [request_for(use.encrypt(one), use).raw_input_contents[0] for _ in "ab"]
        alone = [client.predict(one).logits for _ in "ab"]
        stream = [each.logits for each in predict_many(client, [one, one])]

    assert federation.noisy == (sent[0] != sent[1])
    for first, second in (alone, stream):
        assert federation.noisy == bool(np.abs(first - second).max() > 1e-5)


@pytest.mark.parametrize("datatype", ["FP16", "UINT8"])
def test_what_a_shield_leaves_travels_in_every_form(
    federation: Shielded, datatype: str
) -> None:
    with open_client(federation.owner) as client:
        client.datatype = datatype
        logits, draws = asked_with_draws(client, federation.pixels)
    plain = federation.plain(federation.pixels, draws)

    assert (logits.argmax(1) == plain.argmax(1)).mean() > 0.8
    assert np.abs(logits - plain).max() > 1e-5


def test_the_servers_metadata_says_what_a_caller_must_do(federation: Shielded) -> None:
    workspace = federation.stage.workspace
    server = workspace.federation.only(INFERENCE_SERVER)
    with (
        open_client(federation.owner) as client,
        open_channel(
            workspace.address(INFERENCE_SERVER),
            load_identity(federation.owner),
            server,
            deadline_s=30.0,
        ) as channel,
    ):
        use = client.use()
        said = GRPCInferenceServiceStub(channel).ModelMetadata(
            pb.ModelMetadataRequest(name=use.model)
        )

    shield = use.manifest.shield
    assert shield is not None
    assert shield.to_dict() == json.loads(said.properties["shield"])
    assert repr(use.uint8_step) == said.properties["uint8_step"]
    (read,) = MessageToDict(said)["inputs"]
    assert (read["datatype"], read["shape"]) == (
        FP32,
        ["-1", "4", "4", str(shield.outputs)],
    )
