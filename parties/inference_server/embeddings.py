"""Issued embeddings: in memory up to a budget, the others on disk until asked for."""

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Final

from core.errors import KeymixerError, KeyRefusedError, StorageError
from core.statements import IssueStatement
from parties.inference_server.store import IssuedName, StoredIssue

BUDGET_BYTES: Final = 256 << 20

Load = Callable[[IssueStatement], StoredIssue]


class Embeddings:
    """Finds an embedding by its name; many threads may ask at once.

    What a statement binds stays in memory, for every issued model; it is small. Of the
    embeddings, those that were asked for least recently make room for others.

    Args:
        load: Reads the embedding that a statement binds, and checks it; without one
            nothing is ever put out of memory.
        budget_bytes: How much memory the embeddings may take; one always fits.
    """

    def __init__(
        self, load: Load | None = None, budget_bytes: int = BUDGET_BYTES
    ) -> None:
        self._load = load
        self._budget = budget_bytes
        self._statements: dict[IssuedName, IssueStatement] = {}
        self._recent: OrderedDict[IssuedName, StoredIssue] = OrderedDict()
        self._bytes = 0
        self._changing = Lock()
        # Held while one is read, so that many who wait for it read it once.
        self._loading = Lock()

    @property
    def in_memory(self) -> int:
        """How many bytes the embeddings in memory take."""
        return self._bytes

    def __contains__(self, name: IssuedName) -> bool:
        return name in self._statements

    def add(self, issue: StoredIssue) -> None:
        name = IssuedName.of(issue.statement)
        with self._changing:
            self._statements[name] = issue.statement
            self._keep(name, issue)

    def remove(self, name: IssuedName) -> None:
        """Forget it; whoever asks from now on is refused."""
        with self._changing:
            self._statements.pop(name, None)
            self._drop(name)

    def find(self, name: IssuedName) -> StoredIssue | None:
        """Return what is issued under this name; None: nothing is.

        Raises:
            KeyRefusedError: it was removed while it was read.
            StorageError: it cannot be read from disk as it was issued.
        """
        statement = self._statements.get(name)
        if statement is None:
            return None
        return self._recently(name, statement) or self._read(name, statement)

    def _recently(
        self, name: IssuedName, statement: IssueStatement
    ) -> StoredIssue | None:
        with self._changing:
            issue = self._recent.get(name)
            if issue is None or issue.statement != statement:
                return None
            self._recent.move_to_end(name)
            return issue

    def _read(self, name: IssuedName, statement: IssueStatement) -> StoredIssue:
        with self._loading:
            issue = self._recently(name, statement) or self._loaded(statement)
            with self._changing:
                if self._statements.get(name) != statement:
                    raise KeyRefusedError("the issued model was deleted meanwhile")
                self._keep(name, issue)
            return issue

    def _loaded(self, statement: IssueStatement) -> StoredIssue:
        if self._load is None:
            raise KeyRefusedError("the issued model was deleted meanwhile")
        try:
            return self._load(statement)
        except KeymixerError as error:
            raise StorageError("an issued model cannot be read") from error

    def _keep(self, name: IssuedName, issue: StoredIssue) -> None:
        self._drop(name)
        self._recent[name] = issue
        self._bytes += issue.weight.nbytes
        while self._load and self._bytes > self._budget and len(self._recent) > 1:
            self._drop(next(iter(self._recent)))

    def _drop(self, name: IssuedName) -> None:
        dropped = self._recent.pop(name, None)
        if dropped is not None:
            self._bytes -= dropped.weight.nbytes
