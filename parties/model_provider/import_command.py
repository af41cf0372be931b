"""`keymixer models import`: weights that others have published, as a release.

Nothing heavy is imported before the command runs.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from core.console import EXIT_CODES, print_json, say
from core.errors import ConfigurationError

if TYPE_CHECKING:
    from core.manifest import Manifest
    from parties.model_provider.checkpoint import Checkpoint
    from parties.model_provider.release import Release

app = typer.Typer()

_LATEST: Final = Path("runs") / "latest"

File = Annotated[
    Path, typer.Argument(metavar="FILE", help=".safetensors, .pt, .pth or .pth.tar.")
]
Arch = Annotated[
    str,
    typer.Option(
        "--arch",
        metavar="NAME",
        help="convmixer_HIDDEN_DEPTH[_ksKERNEL][_pPATCH][_relu]; a kernel of 9 and "
        "patches of 7 if left out.",
    ),
]
Name = Annotated[
    str, typer.Option("--name", help="The model's name; default: that of --arch.")
]
Prepared = Annotated[
    str,
    typer.Option(
        "--preprocessing",
        help="How pictures are fitted and normalised: imagenet (224x224) or cifar10.",
    ),
]
Side = Annotated[
    int | None,
    typer.Option("--image-size", min=1, help="In place of the preprocessing's own."),
]
Mean = Annotated[
    str, typer.Option("--mean", help="One number a channel, as 0.5,0.5,0.5.")
]
Std = Annotated[str, typer.Option("--std", help="One number a channel.")]
Classes = Annotated[
    Path | None,
    typer.Option("--classes", help="A text file, a name a line; default: numbers."),
]
Entry = Annotated[
    str,
    typer.Option(
        "--entry", help="What of a checkpoint to take; default: averaged weights first."
    ),
]
Public = Annotated[
    bool,
    typer.Option(
        "--public/--never-published",
        help="Whether anybody else can have these weights, or those that they were "
        "trained on from.",
    ),
]
Folder = Annotated[
    Path | None, typer.Option("--folder", help="The model provider's own folder.")
]
Run = Annotated[
    Path, typer.Option("--run", help="The run's folder.", envvar="KEYMIXER_RUN")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.command("import", epilog=EXIT_CODES)
def import_(
    file: File,
    *,
    arch: Arch,
    name: Name = "",
    preprocessing: Prepared = "imagenet",
    image_size: Side = None,
    mean: Mean = "",
    std: Std = "",
    classes: Classes = None,
    entry: Entry = "",
    folder: Folder = None,
    run: Run = _LATEST,
    public: Public = True,
    json_: AsJson = False,
) -> None:
    """Make a signed release of a ConvMixer with timm's or locuslab's names.

    A public embedding protects no picture from the server: from a public W and the
    issued W A^T anybody computes the key. Issuing it is refused unless the federation's
    policies allow it. Say --never-published only of weights that you trained yourself,
    from a fresh start, and gave to nobody.

    Of .pt and .pth files nothing but weights is read; one that needs more is refused,
    and nothing of it is run. docs/import.md has an example of each kind.

    Example: keymixer models import convmixer.pth.tar --arch convmixer_768_32 --json
    """
    from parties.model_provider.checkpoint import read_checkpoint
    from parties.model_provider.importing import Wanted, import_release, read_classes
    from parties.model_provider.published import preprocessing_named

    target = folder or _only_provider(run)
    prepared = preprocessing_named(
        preprocessing, image_size, _numbers("--mean", mean), _numbers("--std", std)
    )
    named = read_classes(classes) if classes else ()
    wanted = Wanted(name or arch, arch, prepared, named, public)
    checkpoint = read_checkpoint(file, entry)
    release = import_release(checkpoint, wanted)
    path = _write(target, release)
    if json_:
        print_json(_facts(checkpoint, release, path))
    else:
        say("\n".join(_sentences(checkpoint, release, target, path)))


def _write(folder: Path, release: "Release") -> Path:
    from core.rpc.party import ensure_signing_key
    from parties.model_provider.release import write_release

    path = folder / "releases" / release.manifest.name
    write_release(path, release, (), ensure_signing_key(folder))
    return path


def _only_provider(run: Path) -> Path:
    """The folder of a run's one model provider, or `ConfigurationError`."""
    providers = run / "providers"
    found = sorted(providers.iterdir()) if providers.is_dir() else []
    if len(found) != 1:
        there = ", ".join(path.name for path in found) or "no providers"
        raise ConfigurationError(f"{run} has {there}: name a folder with --folder")
    return found[0]


def _numbers(option: str, text: str) -> tuple[float, ...] | None:
    try:
        return tuple(float(part) for part in text.split(",")) if text else None
    except ValueError:
        raise ConfigurationError(f"{option}: expected numbers, as 0.5,0.5") from None


def _facts(checkpoint: "Checkpoint", release: "Release", path: Path) -> dict[str, Any]:
    manifest = release.manifest
    return {
        "release": str(path),
        "name": manifest.name,
        "architecture": manifest.architecture.to_dict(),
        "activation": manifest.architecture.activation,
        "preprocessing": manifest.preprocessing.to_dict(),
        "naming": manifest.lineage["imported"]["naming"],
        "entry": checkpoint.entry,
        "prefix": checkpoint.prefix,
        "sha256": checkpoint.digest,
        "public_embedding": manifest.public_embedding,
    }


def _sentences(
    checkpoint: "Checkpoint", release: "Release", folder: Path, path: Path
) -> list[str]:
    manifest = release.manifest
    taken = f" from its {checkpoint.entry}" if checkpoint.entry else ""
    taken += f", without {checkpoint.prefix} before each" if checkpoint.prefix else ""
    said = [
        f"read {manifest.lineage['imported']['naming']}'s names{taken}",
        _shape(manifest),
        f"wrote the signed release {path}",
    ]
    if manifest.public_embedding:
        said.append(
            "its embedding is public: keys for it hide nothing from the server, and it "
            "is not issued unless policies.allow_public_embeddings says so"
        )
    register = f"python -m parties.model_provider register --folder {folder}"
    return [*said, f"next: {register} --release {path}"]


def _shape(manifest: "Manifest") -> str:
    a, p = manifest.architecture, manifest.preprocessing
    resized = f"scaled to {p.resize} and cut to" if p.resize else "fitted to"
    return (
        f"width {a.hidden}, {a.depth} blocks, kernel {a.kernel_size}, patches of "
        f"{a.patch_size}, {a.activation}, {a.classes} classes; pictures are {resized} "
        f"{p.height}x{p.width}"
    )
