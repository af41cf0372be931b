"""Ask a server with tritonclient, sync and asynchronously, and print what it says.

A process of its own, that imports nothing of ours: two descriptions of the protocol,
under the same names, do not go into one process.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException


def tensor(array: np.ndarray, datatype: str) -> Any:
    found = triton.InferInput("encrypted_blocks", array.shape, datatype)
    return found.set_data_from_numpy(array)


def told(answer: Any) -> dict[str, Any]:
    said = answer.get_response()
    return {
        "logits": answer.as_numpy("logits").tolist(),
        "id": said.id,
        "version": said.model_version,
        "nonce": said.parameters["audit_nonce"].string_param,
    }


def metadata(said: Any) -> list[list[str]]:
    return [[each.name, each.datatype] for each in (*said.inputs, *said.outputs)]


def synchronously(asked: dict[str, Any], tensors: dict[str, np.ndarray]) -> Any:
    model, key = asked["model"], asked["key"]
    with triton.InferenceServerClient(**asked["connection"]) as client:
        return {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model_ready": client.is_model_ready(model, "1"),
            "server": client.get_server_metadata().name,
            "metadata": metadata(client.get_model_metadata(model)),
            "answers": {
                datatype: told(
                    client.infer(
                        model,
                        [tensor(array, datatype)],
                        request_id=datatype,
                        parameters=key,
                    )
                )
                for datatype, array in tensors.items()
            },
        }


async def asynchronously(asked: dict[str, Any], tensors: dict[str, np.ndarray]) -> Any:
    model, key = asked["model"], asked["key"]
    async with triton_aio.InferenceServerClient(**asked["connection"]) as client:
        answers = await asyncio.gather(
            *(
                client.infer(
                    model,
                    [tensor(array, datatype)],
                    request_id=datatype,
                    parameters=key,
                )
                for datatype, array in tensors.items()
            )
        )
        return {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model_ready": await client.is_model_ready(model, "1"),
            "server": (await client.get_server_metadata()).name,
            "metadata": metadata(await client.get_model_metadata(model)),
            "answers": dict(zip(tensors, map(told, answers), strict=True)),
        }


def main() -> None:
    folder = Path(sys.argv[1])
    asked = json.loads((folder / "asked.json").read_text())
    tensors = dict(np.load(folder / "tensors.npz"))
    try:
        if asked["asynchronous"]:
            said = asyncio.run(asynchronously(asked, tensors))
        else:
            said = synchronously(asked, tensors)
    except InferenceServerException as error:
        said = {"refused": str(error)}
    sys.stdout.write(json.dumps(said))


if __name__ == "__main__":
    main()
