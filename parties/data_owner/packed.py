"""Requests in a file, ready to be sent: length-prefixed, as protobuf writes streams."""

import io
from pathlib import Path

from google.protobuf import proto

from core.wire import write_atomically
from parties.data_owner.inference import Pixels, Use, request_for


def write_requests(path: Path, pixels: Pixels, batch: int, use: Use) -> None:
    """Encrypt images, `batch` a request; a last, smaller request is left out.

    They have no id, and no `question_id`: whoever sends one again and again asks anew
    each time.
    """
    file = io.BytesIO()
    for start in range(0, len(pixels) - batch + 1, batch):
        request = request_for(use.encrypt(pixels[start : start + batch]), use)
        request.ClearField("id")
        del request.parameters["question_id"]
        proto.serialize_length_prefixed(request, file)
    write_atomically(path, file.getvalue())
