"""`keymixer jobs list | show | retry | abort`: the workflows under way."""

from itertools import islice, takewhile
from typing import TYPE_CHECKING, Annotated, Final

import typer

from core.console import EXIT_CODES, print_facts, print_json, print_rows, say
from core.errors import NotFound
from orchestrator.cli.options import LATEST, As, AsJson, Reason, Run
from orchestrator.cli.session import ask, tell

if TYPE_CHECKING:
    from orchestrator.operator import Operator
    from protos.workflows_pb2 import Job

app = typer.Typer()

JobId = Annotated[int, typer.Argument(help="The job's number.", min=1)]
_COLUMNS: Final = {
    "id": "job",
    "kind": "kind",
    "subject": "subject",
    "state": "state",
    "step": "step",
    "next": "next",
}


@app.callback(invoke_without_command=True, epilog=EXIT_CODES)
def jobs(
    context: typer.Context, run: Run = LATEST, *, as_: As = "", json_: AsJson = False
) -> None:
    """List the jobs that are open, or see, retry or abort one.

    Example: keymixer jobs
    """
    if context.invoked_subcommand is None:
        list_(run, as_=as_, json_=json_)


@app.command("list", epilog=EXIT_CODES)
def list_(
    run: Run = LATEST,
    *,
    all_: Annotated[bool, typer.Option("--all", help="Also those that ended.")] = False,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1)] = 100,
    as_: As = "",
    json_: AsJson = False,
) -> None:
    """List jobs, newest first: those that are open, unless --all is given.

    Example: keymixer jobs list --all
    """
    from orchestrator.cli.rows import job_fields, job_row

    found = ask(
        run,
        as_,
        lambda operator: list(islice(operator.jobs(open_only=not all_), limit)),
    )
    rows = [job_fields(job) if json_ else job_row(job) for job in found]
    print_rows("Jobs" if all_ else "Open jobs", rows, _COLUMNS, as_json=json_)


@app.command(epilog=EXIT_CODES)
def show(
    job_id: JobId, run: Run = LATEST, *, as_: As = "", json_: AsJson = False
) -> None:
    """Show one job, the jobs it started, and what can be done about it.

    Example: keymixer jobs show 12
    """
    from orchestrator.cli.rows import job_fields, job_row

    job, children = ask(run, as_, lambda operator: _family(operator, job_id))
    if json_:
        started = [job_fields(child) for child in children]
        print_json({**job_fields(job), "children": started})
        return
    facts = {name: value or "" for name, value in job_fields(job).items()}
    print_facts(f"Job {job.id}", facts)
    if children:
        rows = [job_row(child) for child in children]
        print_rows("It started", rows, _COLUMNS, as_json=False)
    if job.state == "needs_operator":
        say(f"next: {_what_to_do(job.id)}")


@app.command(epilog=EXIT_CODES)
def retry(
    job_id: JobId, run: Run = LATEST, *, as_: As = "", json_: AsJson = False
) -> None:
    """Try a job again that is stuck or waits, from the step it stands at.

    Example: keymixer jobs retry 12
    """
    from orchestrator.cli.rows import job_fields

    job = ask(run, as_, lambda operator: operator.retry_job(job_id))
    told = f"job {job.id} is {job.state} at {job.step}: keymixer jobs show {job.id}"
    tell(job_fields(job), told, as_json=json_)


@app.command(epilog=EXIT_CODES)
def abort(
    job_id: JobId,
    reason: Reason,
    run: Run = LATEST,
    *,
    as_: As = "",
    json_: AsJson = False,
) -> None:
    """Give a job up; what it has begun is undone or ended.

    Example: keymixer jobs abort 12 --reason "the owner has left"
    """
    from orchestrator.cli.rows import job_fields

    job = ask(run, as_, lambda operator: operator.abort_job(job_id, reason))
    tell(job_fields(job), f"job {job.id} is {job.state}", as_json=json_)


def _family(operator: "Operator", job_id: int) -> "tuple[Job, list[Job]]":
    """A job and those it started, which are younger."""
    found = operator.jobs_by_id([job_id])
    if not found:
        raise NotFound(f"there is no job {job_id}: see `keymixer jobs list --all`")
    younger = takewhile(lambda job: job.id > job_id, operator.jobs())
    return found[0], [job for job in younger if job.parent_id == job_id]


def _what_to_do(job_id: int) -> str:
    retry_it = f"keymixer jobs retry {job_id}"
    return f'{retry_it}, or keymixer jobs abort {job_id} --reason "..."'
