"""The model provider's commands: train, register a release, ask the plain model.

torch is imported by the commands that compute, not by `register`.
"""

import io
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from core.console import exit_code, print_error
from core.datasets.npz import load_arrays
from core.draws import repeated
from core.errors import KeymixerError
from core.rpc.identity import load_identity
from core.rpc.logs import configure
from core.rpc.party import ensure_signing_key
from core.wire import write_atomically
from parties.model_provider import commands, options
from parties.model_provider.registry import CHAMPION, connect
from parties.model_provider.release import add_card, read_release, signature_of
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
    folder: options.Folder,
    data: options.Data,
    image_size: options.ImageSize = "",
    resize: options.Resize = 0,
    name: options.Name = "classifier",
    hidden: options.Hidden = 128,
    depth: options.Depth = 4,
    kernel_size: options.KernelSize = 5,
    patch_size: options.PatchSize = 4,
    epochs: options.Epochs = 6,
    batch: options.Batch = 128,
    max_lr: options.MaxLr = 0.01,
    weight_decay: options.WeightDecay = 0.01,
    pad: options.Pad = 4,
    flip: options.Flip = True,
    mixup: options.Mixup = 0.0,
    cutmix: options.Cutmix = 0.0,
    label_smoothing: options.LabelSmoothing = 0.0,
    ema: options.Ema = 0.0,
    patience: options.Patience = 0,
    validation: options.Validation = 0.0,
    shield: options.Shield = "none",
    allow_empty: options.AllowEmpty = False,
    seed: options.Seed = None,
    release: options.Target = None,
    public: options.Public = False,
    restart: options.Restart = False,
    progress: options.Progress = "bar",
) -> None:
    """Train a ConvMixer and write a signed release to FOLDER/releases/NAME.

    If it is ended, the same command goes on after the last whole epoch.
    """
    from parties.model_provider.alone import plan_of, train_alone

    plan = plan_of(
        name=name,
        hidden=hidden,
        depth=depth,
        kernel_size=kernel_size,
        patch_size=patch_size,
        epochs=epochs,
        batch=batch,
        max_lr=max_lr,
        weight_decay=weight_decay,
        pad=pad,
        flip=flip,
        mixup=mixup,
        cutmix=cutmix,
        label_smoothing=label_smoothing,
        ema=ema,
        patience=patience,
        validation=validation,
        allow_empty=allow_empty,
        seed=seed,
        image_size=image_size,
        resize=resize,
        shield=shield,
    )
    with reporter(progress) as tell:
        train_alone(
            plan,
            data,
            folder,
            tell,
            target=release,
            restart=restart,
            public=public,
        )


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
    data: Annotated[str, typer.Option(help="Its images, as train takes them.")],
) -> None:
    """Run a site's node, which trains on its images, until it is ended."""
    from parties.model_provider.federated.deployment import serve_site

    serve_site(folder, link, name, data)


@app.command()
def register(
    folder: Folder,
    release: ReleaseFolder,
    alias: Annotated[
        str, typer.Option(help='candidate: it is tried first; "": it has none.')
    ] = CHAMPION,
) -> None:
    """Register a release, deliver both halves, and make it the champion, or another."""
    settings = ProviderSettings.read(folder)
    key = ensure_signing_key(folder)
    content = read_release(release)
    signature = signature_of(release, content, key)
    with ExitStack() as stack:
        delivery = connect(stack, settings, load_identity(folder))
        version = delivery.register(content, signature, key, alias)
    name = content.manifest.name
    emit("registered", model=name, version=version, alias=alias)


@app.command()
def measure(
    folder: Folder,
    release: ReleaseFolder,
    data: options.Data = "digits",
) -> None:
    """Measure a release's leakage card on pictures, and sign its manifest again.

    `train` does it by itself. For a release that was imported, or trained over several
    sites; before it is registered, for a version that is registered never changes.
    """
    from parties.model_provider.measuring import in_words, measured_on

    content = read_release(release)
    card = measured_on(content.manifest, data)
    add_card(release, content, card, ensure_signing_key(folder))
    emit("measured", release=str(release), leakage=in_words(card))


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
