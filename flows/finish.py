"""The end of a run that was stopped: its best model so far is judged and registered, in seconds."""

from prefect import flow

from tasks.alive import announce
from tasks.artifacts import Registered
from tasks.evaluate import evaluate_model
from tasks.finish import close_interrupted, folds_of, promotion_of, take_best
from tasks.register import register_model
from tasks.telemetry import publish


@flow(name="finish-run", flow_run_name="finish-{run_id}", on_running=[announce])
def finish_run(run_id: str, seconds: float = 10.0) -> Registered:
    """Judges the best model that a stopped run has left, in about so many seconds, and registers it."""
    trained = publish(take_best(run_id), run_id)
    report = publish(evaluate_model(trained, folds_of(run_id), trained.tokens.splits, seconds), run_id)
    registered = publish(register_model(trained, report, promotion_of(run_id)), run_id)
    close_interrupted(run_id)
    return registered
