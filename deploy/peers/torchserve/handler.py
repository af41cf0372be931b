"""TorchServe: the batch that the front end gathered, bytes in and out."""

from typing import Any

import plain


class Plain:
    """The entry points that TorchServe looks for in a handler."""

    def initialize(self, context: Any) -> None:
        self.model = plain.load()
        self.context = context

    def handle(self, data: list[dict[str, bytes]], context: Any) -> list[bytes]:
        requests = [bytes(row.get("data") or row["body"]) for row in data]
        return plain.answer(self.model, requests)
