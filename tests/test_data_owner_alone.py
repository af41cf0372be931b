"""A data owner's installation has neither torch nor flwr nor a database."""

import subprocess
import sys
from pathlib import Path

from PIL import Image

ABSENT = (
    "torch",
    "flwr",
    "sqlalchemy",
    "alembic",
    "sklearn",
    "scipy",
    "matplotlib",
)

# Runs in a process of its own, where importing one of these fails as if it were not
# installed; then imports every module of the owner and of the command, and encrypts.
SCRIPT = """
import importlib, importlib.abc, pkgutil, sys
from pathlib import Path

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import parties.data_owner, orchestrator.cli
for package in (parties.data_owner, orchestrator.cli):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)

import numpy as np
from core.blocks import decrypt, encrypt
from core.keys import derive_key
from core.preprocessing import Preprocessing, denormalise, normalise
from parties.data_owner.images import read_images
from parties.data_owner.pictures import as_picture, png

preprocessing = Preprocessing(32, 32, 3, (0.5,) * 3, (0.25,) * 3)
pixels = read_images([Path(sys.argv[1])], preprocessing)
key = derive_key(bytes(32), key_id="k", version=1, patch_size=4, channels=3)
blocks = encrypt(normalise(pixels, preprocessing), key)
assert np.array_equal(pixels, denormalise(decrypt(blocks, key), preprocessing))
assert png(as_picture(blocks[0], 4, 3)).startswith(b"\\x89PNG")
assert not set(ABSENT) & set(sys.modules)
print("encrypted", blocks.shape)
"""


def test_an_owner_encrypts_where_torch_cannot_be_imported(tmp_path: Path) -> None:
    Image.effect_mandelbrot((40, 36), (-2, -1, 1, 1), 50).save(tmp_path / "a.png")
    script = f"ABSENT = {ABSENT!r}\n{SCRIPT}"

    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "a.png")],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stderr == ""
    assert done.stdout == "encrypted (1, 8, 8, 48)\n"


def test_the_command_shows_its_help_there() -> None:
    script = f"""
import sys
for name in {ABSENT!r}:
    sys.modules[name] = None
sys.argv = ["keymixer", "--help"]
from orchestrator.cli.__main__ import main
main()
"""

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "no protection against an inference server" in " ".join(done.stdout.split())
