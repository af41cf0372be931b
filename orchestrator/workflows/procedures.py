"""Every step of every workflow: what a job of this kind does at that step."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from orchestrator.workflows import delivery, ending, recovery, release
from orchestrator.workflows.jobs import Kind, Step
from orchestrator.workflows.work import Work

Procedure = Callable[[Work], None]

_ISSUE: Final = {Step.PREPARE: delivery.prepare, Step.SEND: delivery.send}
_CREATE: Final = {
    Step.DRAW: delivery.draw,
    Step.CONFIRM: delivery.confirm,
    **_ISSUE,
}
_END: Final = {
    Step.REMOVE: ending.remove,
    Step.WINDOW: ending.window,
    Step.DESTROY: ending.destroy,
}

STEPS: Final[Mapping[tuple[str, str], Procedure]] = MappingProxyType(
    {
        (kind, step): procedure
        for kind, steps in {
            Kind.CREATE: _CREATE,
            Kind.ROTATE: {**_CREATE, Step.OVERLAP: ending.overlap},
            Kind.ISSUE: _ISSUE,
            Kind.RELEASE: {
                Step.ISSUE_ALL: release.issue_all,
                Step.CHILDREN: release.children,
            },
            Kind.REVOKE: _END,
            Kind.DESTROY: {**_END, Step.OVERLAP: ending.overlap},
            Kind.RECOVER: {
                Step.AWAIT_RELEASE: recovery.await_release,
                Step.REKEY: recovery.rekey,
                Step.CHILDREN: recovery.children,
            },
        }.items()
        for step, procedure in steps.items()
    }
)
