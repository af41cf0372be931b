"""What each form of encrypted blocks costs in bytes, and in answers that change."""

from pathlib import Path
from typing import Any, Final

import numpy as np

from core.blocks import Blocks
from core.datasets import load
from core.encoding import DATATYPES, WIDTHS, decode, encode, uint8_step
from core.errors import NotFound
from core.keys import derive_key
from core.manifest import Manifest
from core.pixels import PixelKey
from core.transform import embed, transform_embedding
from core.wire import load_tensors

_BATCH: Final = 250
_SEED: Final = b"a measurement, not an owner's key"[:32]


def measure_wire(release: Path, data: str = "cifar10") -> list[dict[str, Any]]:
    """Ask a trained release about a test set, its blocks sent in each datatype.

    The key is a fixed one, so that two runs give the same figures.

    Raises:
        NotFound: there is no release in the folder.
    """
    if not (release / "manifest.json").is_file():
        raise NotFound(f"{release} holds no release: run `keymixer simulate` once")
    manifest = Manifest.from_bytes((release / "manifest.json").read_bytes())
    test = load(data, "test")
    logits = _logits(release, manifest, np.asarray(test.images))
    exact = logits["FP32"]
    sizes = manifest.architecture
    numbers = sizes.rows * sizes.columns * sizes.dimension
    return [
        {
            "datatype": name,
            "images": len(exact),
            "accuracy": float((logits[kind].argmax(1) == test.labels).mean()),
            "top1_agreement": float((logits[kind].argmax(1) == exact.argmax(1)).mean()),
            "max_logit_difference": float(np.abs(logits[kind] - exact).max()),
            "bytes_an_image": numbers * WIDTHS[kind],
        }
        for name, kind in DATATYPES.items()
    ]


def _logits(
    release: Path, manifest: Manifest, images: np.ndarray
) -> dict[str, np.ndarray]:
    import torch  # noqa: PLC0415 - a data owner's installation has none

    from core.convmixer import put_together  # noqa: PLC0415

    sizes = manifest.architecture
    key = derive_key(
        _SEED,
        key_id="bench",
        version=1,
        patch_size=sizes.patch_size,
        channels=sizes.channels,
    )
    folded = PixelKey.of(key, manifest.preprocessing, manifest.shield)
    plain = load_tensors(release / "embedding.safetensors")["weight"]
    issued = transform_embedding(plain, key)
    step = uint8_step(manifest.preprocessing, sizes.dimension, manifest.shield)
    tensors = load_tensors(release / "backbone.safetensors")
    model = put_together(sizes, tensors)
    found: dict[str, list[np.ndarray]] = {kind: [] for kind in WIDTHS}
    with torch.inference_mode():
        for start in range(0, len(images), _BATCH):
            blocks = folded.encrypt(images[start : start + _BATCH])
            for kind, answers in found.items():
                sent = _sent(blocks, kind, step)
                tokens = embed(sent, issued, tensors["embedding.bias"])
                logits = model.forward_tokens(torch.from_numpy(tokens))
                answers.append(logits.numpy())
    return {kind: np.concatenate(parts) for kind, parts in found.items()}


def _sent(blocks: Blocks, datatype: str, step: float) -> Blocks:
    return decode(
        encode(blocks, datatype, step),
        blocks.shape,
        datatype,
        step,
        max_bytes=blocks.nbytes,
    )
