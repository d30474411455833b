"""How the commands work through files: on threads or a cluster, with what is told on the way and at the end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, TypeVar

import click

from lcodec.batch.lanes import Record, Stages, StopBatch, Worker, memory_budget, run_lanes
from lcodec.batch.plan import Job, Naming, Plan
from lcodec.batch.sources import STREAM, Search
from lcodec.cli.report import DEBUG, Progress, print_json, warn
from lcodec.cli.tally import Tally, describe_size
from lcodec.cores import available_cores, may_have_cuda
from lcodec.errors import OutputExists, UsageError

__all__ = ["Batch", "Recipe", "describe_size", "make_plan", "one_by_one", "report", "run"]

# Files being read or written beside those in the networks. On disk one is enough, and each takes turns on the cores.
AHEAD_FOR_STORES = 8
ON_GPU_AT_ONCE = 3  # images: their transforms take turns there, while others are entropy coded on the CPU
Outcome = Record | Exception | None  # None: left out, for its output is there


@dataclass(frozen=True)
class Batch:
    """The options that say how files are found and worked through, and not what is done with each."""

    output: str | None = None
    out_dir: str | None = None
    keep_suffix: bool = False
    skip_existing: bool = False
    jobs: int | None = None
    ray: str | None = None
    force: bool = False
    as_json: bool = False
    quiet: bool = False
    verbose: bool = False


class Recipe(Protocol):
    """A frozen dataclass with all options for what is done with each file. It travels to other machines."""

    @property
    def device(self) -> str: ...

    @property
    def threads(self) -> int | None: ...

    def worker(self) -> Worker: ...


T = TypeVar("T")


def make_plan(inputs: Sequence[str], batch: Batch, suffixes: Collection[str], what: str, suffix: str) -> Plan:
    """What goes where. what: the inputs, in the plural. suffix: the ending of outputs. Raises as `Plan.make` does."""
    from lcodec.image import INPUT_SUFFIXES, OUTPUT_SUFFIXES

    if batch.output is not None and batch.out_dir is not None:
        raise UsageError("-o and --out-dir both say where outputs go", hint="leave one out")
    if batch.force and batch.skip_existing:
        raise UsageError("--force and --skip-existing contradict each other", hint="leave one out")
    for option, given in (("-o", batch.output), ("--out-dir", batch.out_dir)):
        if given == "":
            raise UsageError(f"{option} names nothing", hint="an unset variable of the shell, perhaps")
    output, is_folder = (batch.out_dir, True) if batch.out_dir is not None else (batch.output, False)
    endings = frozenset({".lic", *INPUT_SUFFIXES, *OUTPUT_SUFFIXES})
    naming = Naming(suffix, output, is_folder, batch.keep_suffix, endings)
    plan = Plan.make(Search.of(inputs, suffixes, what), naming)
    if plan.to_stdout and batch.as_json:
        raise UsageError("--json and the output cannot both go to stdout")
    return plan


def run(plan: Plan, recipe: Recipe, batch: Batch, *, label: str, show: Callable[[Record], None]) -> None:
    """Do what the recipe says for each job. One that fails is reported and the others go on.

    Leaves with the exit code of the first failure. show: tells of a record.
    """
    if batch.ray is not None:
        outcomes = _on_cluster(batch.ray, plan, recipe, batch)
    elif plan.count == 1:
        outcomes = one_by_one(_admitted(plan, batch), _work(recipe, Stages()))
    else:
        at_once, threads = parallelism(plan.count, recipe, batch.jobs)
        stages = Stages(at_once, memory_budget())
        work = _work(replace(recipe, threads=threads), stages)  # type: ignore[type-var]
        ahead = AHEAD_FOR_STORES if plan.in_stores else max(1, at_once // 4)
        outcomes = run_lanes(_admitted(plan, batch), work, stages, at_once + ahead)
    # Made by another process meanwhile, it is there all the same.
    left = (OutputExists,) if batch.skip_existing else ()
    told = ((item.job, None if isinstance(outcome, left) else outcome) for item, outcome in outcomes)
    report(
        told,
        plan.count,
        label=label,
        show=show,
        quiet=batch.quiet,
        as_json=batch.as_json,
        resumable=not batch.force,  # with it what is there may be of before
    )


@dataclass(frozen=True)
class _Item:
    """A job, and whether it is to be done at all."""

    job: Job
    verdict: bool | Exception


def _admitted(plan: Plan, batch: Batch) -> Iterator[_Item]:
    for job in plan:
        try:
            verdict: bool | Exception = plan.admit(job, force=batch.force, skip_existing=batch.skip_existing)
        except Exception as error:
            verdict = error
        yield _Item(job, verdict)


def _work(recipe: Recipe, stages: Stages) -> Callable[[_Item], Record | None]:
    worker = recipe.worker()

    def work(item: _Item) -> Record | None:
        if isinstance(item.verdict, Exception):
            raise item.verdict
        return worker.process(item.job, stages) if item.verdict else None

    return work


def _on_cluster(address: str, plan: Plan, recipe: Recipe, batch: Batch) -> Iterator[tuple[_Item, Outcome]]:
    from lcodec.batch.cluster import run_cluster

    if plan.to_stdout or plan.search.inputs == (STREAM,):
        raise UsageError("stdin and stdout are not on the cluster", hint="name files, or leave --ray out")
    if recipe.threads not in (None, 1):
        raise UsageError("--threads does not go with --ray", hint="a worker has a thread for each file; see --jobs")

    def job_of(item: _Item) -> Job | Outcome:
        if isinstance(item.verdict, Exception):
            return item.verdict
        return item.job if item.verdict else None

    try:
        yield from run_cluster(
            address, _admitted(plan, batch), job_of, partial(_worker_of, recipe), actors=batch.jobs
        )
    finally:
        plan.tidy()


def _worker_of(recipe: Recipe, threads: int) -> Worker:
    return replace(recipe, threads=threads, quiet=True).worker()  # type: ignore[type-var]


def parallelism(count: int, recipe: Recipe, jobs: int | None) -> tuple[int, int]:
    """How many files to compute at once, and with how many threads each."""
    threads = recipe.threads or available_cores()
    if jobs is None:
        # Asked without torch, whose import takes as long as many files; where it errs, little is lost.
        on_gpu = recipe.device != "cpu" and (recipe.device != "auto" or may_have_cuda())
        jobs = min(threads, ON_GPU_AT_ONCE) if on_gpu else threads
    jobs = min(jobs, count)
    return jobs, max(1, threads // jobs)


def one_by_one(items: Iterable[T], work: Callable[[T], Record | None]) -> Iterator[tuple[T, Outcome]]:
    """Each item and what became of it. A broken pipe ends it all."""
    for item in items:
        try:
            outcome: Outcome = work(item)
        except BrokenPipeError:
            raise
        except Exception as error:
            outcome = error
        yield item, outcome


def report(
    outcomes: Iterator[tuple[Job, Outcome]],
    count: int,
    *,
    label: str,
    show: Callable[[Record], None] | None,
    quiet: bool,
    as_json: bool,
    resumable: bool = False,
) -> None:
    """Tell of each outcome as it comes, and of the failures and the whole at the end; see `run` and `Tally.tell`."""
    ctx = click.get_current_context()
    tally = Tally(count, debug=bool(ctx.meta.get(DEBUG, False)))
    try:
        with Progress(count, label, enabled=not quiet) as step:
            for job, outcome in outcomes:
                tally.add(job, outcome)
                if isinstance(outcome, Exception):
                    for message in () if quiet else tally.failures[-1].details.get("warnings", ()):
                        warn(f"{job.source.name}: {message}")
                    if as_json:
                        print_json({"input": job.source.name, **tally.failures[-1].as_json()})
                elif outcome is None:
                    if as_json:
                        print_json({"input": job.source.name, "output": job.target_name, "skipped": True})
                elif show and (as_json or not quiet):
                    show(outcome)
                step(failed=isinstance(outcome, Exception))
                if isinstance(outcome, StopBatch):
                    break
    except BaseException:
        tally.tell(quiet=quiet, as_json=as_json, interrupted=True, resumable=resumable)
        raise
    tally.tell(quiet=quiet, as_json=as_json)
    if tally.failures:
        ctx.exit(tally.failures[0].exit_code)
