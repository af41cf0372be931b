"""The model provider's commands: train, register a release, ask the plain model.

torch is imported by the commands that compute, not by `register`.
"""

import io
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer

from core.console import exit_code, print_error
from core.datasets import Split, load
from core.datasets.npz import load_arrays
from core.draws import repeated
from core.errors import KeymixerError
from core.rpc.identity import load_identity
from core.rpc.logs import configure
from core.rpc.party import ensure_signing_key
from core.wire import write_atomically
from parties.model_provider import commands
from parties.model_provider.registry import connect
from parties.model_provider.release import read_release, signature_of, write_release
from parties.model_provider.reporting import emit, reporter
from parties.model_provider.settings import ProviderSettings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    # A traceback with local variables would print weights and keys.
    pretty_exceptions_enable=False,
    help=__doc__,
)

# The same as `keymixer train`.
app.command(name="train-sites")(commands.train)

Folder = Annotated[Path, typer.Option(help="The provider's own folder.")]
ReleaseFolder = Annotated[Path, typer.Option("--release", help="A release's folder.")]


@app.command(name="train")
def train_command(
    *,
    folder: Folder,
    data: Annotated[str, typer.Option(help="cifar10, digits, a folder, or an .npz.")],
    name: Annotated[str, typer.Option(help="The model's name.")] = "classifier",
    hidden: int = 128,
    depth: int = 4,
    kernel_size: int = 5,
    patch_size: int = 4,
    epochs: int = 6,
    batch: int = 128,
    max_lr: float = 0.01,
    weight_decay: float = 0.01,
    pad: int = 4,
    flip: bool = True,
    shield: commands.ShieldSpec = "none",
    seed: Annotated[
        int | None,
        typer.Option(
            help="For experiments only: who knows the seed and the data can train the"
            " same secret embedding. Default: the operating system's entropy."
        ),
    ] = None,
    progress: Literal["bar", "json"] = "bar",
) -> None:
    """Train a ConvMixer and write a signed release to FOLDER/releases/NAME."""
    from core.shield import ShieldPlan
    from core.training import Recipe
    from parties.model_provider.training import Plan, train
    from parties.model_provider.weights import release_of

    recipe = Recipe(epochs, batch, max_lr, weight_decay, pad, flip)
    sizes = (hidden, depth, kernel_size, patch_size)
    plan = Plan(name, *sizes, recipe, seed, shield=ShieldPlan.parse(shield))
    with reporter(progress) as tell:
        splits: tuple[Split, ...] = ("train", "test")
        training, test = (load(data, split, tell.preparing) for split in splits)
        trained = train(
            (training, test), plan, lambda step: tell.step(step, epochs), tell.epoch
        )
        target = folder / "releases" / name
        key = ensure_signing_key(folder)
        write_release(target, release_of(trained), trained.curve, key)
        tell.done(release=str(target), accuracy=trained.accuracy)


@app.command()
def link(
    folder: Folder,
    listen: Annotated[str, typer.Option(help="HOST:PORT for sites and commands.")],
) -> None:
    """Run the SuperLink that sites' nodes connect to, until it is ended."""
    from parties.model_provider.federated.deployment import serve_link

    serve_link(folder, listen)


@app.command()
def site(
    folder: Annotated[Path, typer.Option(help="The site's own, with its certificate.")],
    link: Annotated[str, typer.Option(help="The SuperLink's HOST:PORT.")],
    name: Annotated[str, typer.Option(help="The site's name.")],
    data: Annotated[str, typer.Option(help="Its images: a folder, or an .npz.")],
) -> None:
    """Run a site's node, which trains on its images, until it is ended."""
    from parties.model_provider.federated.deployment import serve_site

    serve_site(folder, link, name, data)


@app.command()
def register(folder: Folder, release: ReleaseFolder) -> None:
    """Register a release, deliver both halves, and make it the champion."""
    settings = ProviderSettings.read(folder)
    key = ensure_signing_key(folder)
    content = read_release(release)
    signature = signature_of(release, content, key)
    with ExitStack() as stack:
        delivery = connect(stack, settings, load_identity(folder))
        version = delivery.register(content, signature, key)
    emit("registered", model=content.manifest.name, version=version)


@app.command()
def evaluate(
    release: ReleaseFolder,
    images: Annotated[Path, typer.Option(help="An .npz with images and labels.")],
    out: Annotated[Path, typer.Option(help="Where logits and labels go, as .npz.")],
    folder: Folder = Path(),
    draws: Annotated[
        Path | None,
        typer.Option(help="An .npz with the noise to take; default: drawn now."),
    ] = None,
) -> None:
    """Ask the plain model in this process; nothing goes over the wire."""
    from parties.model_provider.weights import plain_logits

    del folder  # every command takes it; this one needs nothing of it
    pixels, labels = load_arrays(images)
    entropy = os.urandom if draws is None else repeated(draws)
    logits = plain_logits(read_release(release), pixels, entropy)
    file = io.BytesIO()
    np.savez(file, logits=logits, labels=labels)
    write_atomically(out, file.getvalue())
    accuracy = float((logits.argmax(axis=1) == labels).mean())
    emit("done", images=len(labels), accuracy=accuracy)


def main() -> None:
    """Run one command; an error of ours becomes a line and an exit code."""
    configure("WARNING")
    # Read when torch is loaded. By default waiting threads spin: on a machine that has
    # other work, training takes five times the CPU seconds.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except KeymixerError as error:
        print_error(error, as_json=False)
        sys.exit(exit_code(error))


if __name__ == "__main__":
    main()
