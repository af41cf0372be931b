"""Options of the commands that train, each declared once; defaults are the command's.

Nothing heavy is imported.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

# Where it comes from, and where it goes.
Data = Annotated[
    str,
    typer.Option(
        "--data",
        help="cifar10, digits, a folder, an .npz, or your own MODULE:CLASS.",
    ),
]
ImageSize = Annotated[
    str,
    typer.Option(
        "--image-size",
        help="What pictures are fitted to: pixels a side, or HEIGHTxWIDTH.",
    ),
]
Resize = Annotated[
    int,
    typer.Option(
        "--resize",
        min=0,
        help="What a picture's shorter side is scaled to before its centre is cut out; "
        "0: what just covers --image-size.",
    ),
]
Folder = Annotated[
    Path, typer.Option("--folder", help="The provider's own; it gets the release.")
]
Name = Annotated[str, typer.Option("--name", help="The model's name.")]
Target = Annotated[
    Path | None,
    typer.Option(
        "--release", help="Where the release goes; default: FOLDER/releases/NAME."
    ),
]
Progress = Annotated[
    Literal["bar", "json"], typer.Option("--progress", help="json: an event a line.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]

# The network.
Hidden = Annotated[int, typer.Option("--hidden", help="The width: channels a block.")]
Depth = Annotated[int, typer.Option("--depth", help="How many blocks.")]
KernelSize = Annotated[
    int, typer.Option("--kernel-size", help="The side of a block's kernel; odd.")
]
PatchSize = Annotated[
    int, typer.Option("--patch-size", help="The side of a patch, and of a key's block.")
]

# How it is trained.
Epochs = Annotated[int, typer.Option("--epochs", min=1, help="Over all images.")]
Batch = Annotated[int, typer.Option("--batch", help="Images in a step.")]
Optimiser = Annotated[
    Literal["adamw", "sgd"], typer.Option("--optimiser", help="What takes the steps.")
]
MaxLr = Annotated[
    float, typer.Option("--max-lr", help="The learning rate at its highest.")
]
WeightDecay = Annotated[
    float, typer.Option("--weight-decay", help="Toward zero, at each step.")
]
Pad = Annotated[
    int, typer.Option("--pad", help="Images are shifted by up to so many pixels.")
]
Flip = Annotated[
    bool, typer.Option("--flip/--no-flip", help="Mirror half of the images, by chance.")
]
Shield = Annotated[
    str,
    typer.Option(
        "--shield",
        help="What owners do to each block before the key: none, highpass:K, "
        "magnitude:K or noise:SIGMA; docs/shields.md has what it costs.",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed",
        help="For experiments only: who knows the seed and the data can train the"
        " same secret embedding. Default: the operating system's entropy.",
    ),
]

Mixup = Annotated[
    float,
    typer.Option(
        "--mixup", help="Mix two images; alpha of how much of each. 0: never."
    ),
]
Cutmix = Annotated[
    float,
    typer.Option(
        "--cutmix", help="Paste a part of one image into another; alpha. 0: never."
    ),
]
LabelSmoothing = Annotated[
    float,
    typer.Option(
        "--label-smoothing", help="The share of a label dealt out to all classes."
    ),
]
Ema = Annotated[
    float,
    typer.Option(
        "--ema",
        help="Release an average of the weights that keeps so much of itself at each"
        " step, such as 0.998. 0: release the last weights.",
    ),
]
Patience = Annotated[
    int,
    typer.Option(
        "--patience",
        help="Stop after so many epochs that got no better, and release the best;"
        " 0: never stop early.",
    ),
]
Validation = Annotated[
    float,
    typer.Option(
        "--validation",
        help="The share of the training images held out for --patience to decide by.",
    ),
]

AllowEmpty = Annotated[
    bool,
    typer.Option(
        "--allow-empty",
        help="Train though a class has no image, and will never be an answer.",
    ),
]
Public = Annotated[
    bool,
    typer.Option(
        "--public",
        help="The release will be published: keys for it hide nothing from a server.",
    ),
]

# Over several sites.
Sites = Annotated[
    int | None,
    typer.Option(
        "--sites", min=2, help="How many; by-organisation: as many as there are."
    ),
]
How = Annotated[
    str,
    typer.Option(
        "--partition",
        help="How images are dealt out: iid, dirichlet:ALPHA, or by-organisation, for "
        "which --data is a folder with a subfolder or .npz for each organisation.",
    ),
]
PartitionSeed = Annotated[
    int, typer.Option("--partition-seed", help="Which of all such partitions.")
]
Rounds = Annotated[int, typer.Option("--rounds", min=1, help="Of all sites.")]
SiteEpochs = Annotated[
    int, typer.Option("--epochs", min=1, help="Of a site, in each round.")
]
AnyEpochs = Annotated[
    int | None,
    typer.Option(
        "--epochs",
        min=1,
        help="Over all images: 6 unless told. With sites: of each in a round, 1.",
    ),
]
Strategy = Annotated[
    Literal["fedavg", "fedprox", "fedadam", "fedmedian", "fedtrimmedavg"],
    typer.Option("--strategy", help="How the sites' answers become one model."),
]
ProximalMu = Annotated[
    float,
    typer.Option("--proximal-mu", help="fedprox: what it costs a site to go far."),
]
ServerLr = Annotated[
    float, typer.Option("--server-lr", help="fedadam: the server's learning rate.")
]
Trim = Annotated[
    float,
    typer.Option("--trim", help="fedtrimmedavg: the share left out at each end."),
]
MinSites = Annotated[
    int,
    typer.Option("--min-sites", help="How many must be there for a round; 0: all."),
]

# Each site on a machine of its own.
Link = Annotated[
    str,
    typer.Option(
        "--link", help="A SuperLink's HOST:PORT; sites with nodes of their own."
    ),
]
Admit = Annotated[
    list[Path] | None,
    typer.Option("--admit", help="With --link: a site's certificate; it is let in."),
]
Restart = Annotated[
    bool,
    typer.Option("--restart", help="Begin anew, not where an unfinished one stands."),
]
