"""The proof that a training can be killed at any moment: it ends with the same bits as one left in peace.

Each training is processes of its own, which are really killed: by SIGKILL at seeded steps several
times in a row, and asked to end by SIGTERM, alone and in a group of two workers.
"""

import hashlib
import itertools
import json
import multiprocessing
import os
import random
import shutil
import statistics
import time
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from signal import Signals

from rich.console import Console
from rich.table import Table

from tasks import home
from tasks.calibrate import at_depth
from tasks.planned import Plan
from tasks.telemetry import Stage, Tail, stage
from tasks.terminal import StageLines
from training.budget import TokenCount
from training.checkpoint import newest_checkpoint, read_position
from training.journal import Event, read_journal
from training.worker import Assignment, carry_out_in_group

DEEPEST = 2  # layers; exactness does not depend on size, and a minute is long enough to wait
WATCHED_TOKENS = 2048
CHECKPOINT_STEPS = 8  # between two checkpoints, about
SIGTERM_SECONDS = 10.0  # within which a training asked to end has written a checkpoint
PATIENCE_SECONDS = 600.0  # longer than that without a step is a hang
POLL_SECONDS = 0.002


@dataclass(frozen=True)
class Blow:
    """What happens to a training at a step: a signal to all its workers, or to the last one only."""

    step: int
    by: Signals = Signals.SIGKILL
    to_all: bool = True


@dataclass(frozen=True)
class Check:
    """One disturbed training beside one left in peace: what was done to it, and what it cost."""

    what: str
    workers: int
    blows: tuple[str, ...]
    steps: int
    steps_redone: tuple[int, ...]  # after each blow
    sha256: str
    undisturbed_sha256: str
    faults: tuple[str, ...]  # empty: it holds

    def row(self) -> tuple[str, ...]:
        """The check as a line of the table."""
        same = "the same bits" if self.sha256 == self.undisturbed_sha256 else "OTHER BITS"
        redone = ", ".join(map(str, self.steps_redone))
        verdict = "holds" if not self.faults else "FAILS: " + "; ".join(self.faults)
        return self.what, "\n".join(self.blows), redone, f"{self.sha256[:12]}\n{same}", verdict


@dataclass
class Group:
    """One training in processes of its own, one for each worker, under the eyes of `shown`."""

    assignment: Assignment
    workers: int
    shown: Stage
    steps: int
    processes: list[BaseProcess] = field(default_factory=list)

    def start(self) -> None:
        """Starts the training, or resumes it."""
        folder = self.assignment.folder
        folder.mkdir(parents=True, exist_ok=True)
        attempt = time.monotonic_ns()
        for rank in range(self.workers):
            where = (folder / f"meeting-{attempt}", folder / f"worker-{rank}.log")
            given = (self.assignment, rank, self.workers, *where)
            self.processes.append(_children().Process(target=carry_out_in_group, args=given, daemon=True))
            self.processes[-1].start()

    def wait(self, step: int) -> int:
        """Waits until the journal has `step` or the training is over, and says the step that it has."""
        tail, seen, until = Tail(self.journal), 0, time.monotonic() + PATIENCE_SECONDS
        while seen < step and any(p.is_alive() for p in self.processes) and time.monotonic() < until:
            time.sleep(POLL_SECONDS)
            for event in tail.new_events():
                seen, until = event["step"], time.monotonic() + PATIENCE_SECONDS
                self.shown.move(seen / self.steps, f"step {seen} of {self.steps}")
        return seen

    def strike(self, blow: Blow, pause: float) -> float:
        """Waits for the blow's step and `pause` more seconds, strikes, and says how long the end took, in seconds."""
        self.wait(blow.step)
        time.sleep(pause)
        began = time.monotonic()
        for process in self.processes if blow.to_all else self.processes[-1:]:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, blow.by)
        self.end(SIGTERM_SECONDS)
        return time.monotonic() - began

    def end(self, seconds: float) -> list[int | None]:
        """Exit codes of all processes; those that go on for longer than `seconds` are killed."""
        until = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, until - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        codes = [process.exitcode for process in self.processes]
        self.processes.clear()
        return codes

    def finish(self) -> None:
        """Waits for the training's own end. Raises RuntimeError where a worker fails or hangs."""
        self.wait(self.steps)
        if any(codes := self.end(PATIENCE_SECONDS)):
            log = self.assignment.folder / "worker-0.log"
            raise RuntimeError(f"a training failed, with exit codes {codes}; see {log}")

    @property
    def journal(self) -> Path:
        return self.assignment.folder / "journal.jsonl"

    def steps_done(self) -> list[Event]:
        """The steps that are written down."""
        return [event for event in read_journal(self.journal) if event["event"] == "step"]

    def kept(self) -> tuple[int, float]:
        """Step and training seconds that the next start goes on from."""
        fingerprint = self.assignment.blueprint.fingerprint()
        path = newest_checkpoint(self.assignment.folder / "checkpoints", fingerprint)
        position = read_position(path) if path else None
        return (position.step, position.used_seconds) if position else (0, 0.0)

    @property
    def weights(self) -> Path:
        return self.assignment.folder / "model" / "model.safetensors"

    def sha256(self) -> str:
        """Names the weights that the training ended with."""
        return hashlib.sha256(self.weights.read_bytes()).hexdigest()


def step_seconds(steps: list[Event]) -> list[float]:
    """How long each step took, what was looked at after it included."""
    ends = [0.0, *(step["seconds"] for step in steps)]
    return [later - sooner for sooner, later in itertools.pairwise(ends)]


def interval(peace: Group) -> float:
    """Seconds between two checkpoints."""
    return CHECKPOINT_STEPS * statistics.median(step_seconds(peace.steps_done()))


def in_peace(assignment: Assignment, workers: int, steps: int) -> Group:
    """A training that nothing happens to, and that writes no checkpoint even."""
    with stage(f"Train in peace, workers: {workers}") as shown:
        group = Group(replace(assignment, checkpoint_seconds=None), workers, shown, steps)
        group.start()
        group.finish()
        shown.result = f"{len(group.steps_done())} steps, sha256 {group.sha256()[:16]}"
    return group


def disturb(what: str, assignment: Assignment, peace: Group, blows: list[Blow], dice: random.Random) -> Check:
    """Trains the same under blows, resumed after each, and compares what comes of it."""
    told, redone, faults = list[str](), list[int](), list[str]()
    usual = interval(peace) / CHECKPOINT_STEPS
    with stage(what) as shown:
        group = Group(assignment, peace.workers, shown, peace.steps)
        for blow in blows:
            group.start()
            seconds = group.strike(blow, dice.random() * usual)
            steps, (kept, used) = group.steps_done(), group.kept()
            at, now = (steps[-1]["step"], steps[-1]["seconds"]) if steps else (0, 0.0)
            redone.append(at - kept)
            told.append(f"step {at + 1}: {blow.by.name}{'' if blow.to_all else ', one worker'}")
            if group.weights.exists():
                faults.append(f"it ended before {blow.by.name} at step {blow.step}: give more steps")
            if now - used > (assignment.checkpoint_seconds or 0.0) + max(step_seconds(steps), default=0.0):
                faults.append(f"{redone[-1]} steps redone are more than one checkpoint interval")
            if blow.by is Signals.SIGTERM and (redone[-1] or seconds > SIGTERM_SECONDS):
                faults.append(f"no checkpoint within {SIGTERM_SECONDS:.0f} s of SIGTERM")
        group.start()
        group.finish()
        numbers = [event["step"] for event in group.steps_done()]
        if numbers != [event["step"] for event in peace.steps_done()]:
            faults.append("the journal does not have every step once")
        if group.sha256() != peace.sha256():
            faults.append("the weights differ")
        shown.result = "; ".join(faults) or f"the same bits, {sum(redone)} steps done again"
    sums = (group.sha256(), peace.sha256())
    return Check(what, peace.workers, tuple(told), len(numbers), tuple(redone), *sums, tuple(faults))


def prove(assignment: Assignment, kills: int, seed: int) -> list[Check]:
    """Checks of one training: killed, asked to end, and killed in a group of two."""
    clock = assignment.clock
    if not isinstance(clock, TokenCount):
        raise ValueError("only a training that counts tokens ends the same however long it takes")
    dice = random.Random(seed)
    batch = assignment.blueprint.learning.batch_tokens or 1
    steps = clock.tokens // batch

    def at(name: str, seconds: float | None = None) -> Assignment:
        return replace(assignment, folder=assignment.folder / name, checkpoint_seconds=seconds)

    def deaths(count: int) -> list[int]:
        return sorted(dice.sample(range(1, max(count + 1, steps - 2)), count))

    peace = in_peace(at("peace"), 1, steps)
    steps = len(peace.steps_done())
    peace.steps = steps
    killed = [Blow(step) for step in deaths(kills)]
    checks = [disturb(f"Kill it {kills} times", at("killed", interval(peace)), peace, killed, dice)]
    asked = [Blow(deaths(1)[0], Signals.SIGTERM)]
    checks.append(disturb("Ask it to end", at("asked", 3600.0), peace, asked, dice))
    if assignment.device == "cpu":
        both = in_peace(at("both"), 2, steps)
        first, second = deaths(2)
        blows = [Blow(first, to_all=False), Blow(second)]
        checks.append(disturb("Kill two workers", at("both-killed", interval(both)), both, blows, dice))
    return checks


def verify_resume(run_id: str, steps: int, kills: int, as_json: bool) -> bool:
    """Proves it for the recipe of a planned run, prints what was done, and says whether it holds."""
    plan = Plan.model_validate_json((home.run_folder(run_id) / "plan.json").read_text())
    blueprint = plan.blueprint
    if (depth := getattr(blueprint.model, "depth", None)) is not None:
        blueprint = at_depth(blueprint, min(depth, DEEPEST))
    folder = home.run_folder(run_id) / "verify"
    shutil.rmtree(folder, ignore_errors=True)
    assignment = Assignment(
        folder=folder,
        blueprint=blueprint,
        shards=plan.tokens.folder,
        clock=TokenCount(steps * (blueprint.learning.batch_tokens or 1)),
        looks=(0.5, 1.0) if plan.tokens.tokens["validation"] else (),
        watched_tokens=WATCHED_TOKENS,
        keep_model=True,
        device=plan.compute.device_type,
    )
    with StageLines():
        checks = prove(assignment, kills, blueprint.seed)
    holds = not any(check.faults for check in checks)
    if holds:
        shutil.rmtree(folder)  # of one that fails, everything stays to look at
    if as_json:
        print(json.dumps({"flow_run_id": run_id, "holds": holds, "checks": [asdict(c) for c in checks]}))
    else:
        show(checks, steps, holds)
    return holds


def show(checks: list[Check], steps: int, holds: bool) -> None:
    """Prints a table of what was done and what came of it."""
    title = f"{steps} steps, a checkpoint about every {CHECKPOINT_STEPS}"
    table = Table("what", "blows", "steps redone", "sha256", "verdict", title=title)
    for check in checks:
        table.add_row(*check.row())
    console = Console()
    console.print(table)
    console.print(
        "A training of this recipe can be killed at any moment: it ends with the same bits."
        if holds
        else "It does NOT hold for this recipe."
    )


def _children() -> ForkServerContext:
    """Where trainings are started: a server that has imported what they need, so that each start takes milliseconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "training.worker"])
    return context
