"""A finished run once more, from what MLflow holds: whether it ends with the same weights, bit by bit."""

from prefect import flow

from tasks.alive import announce
from tasks.cluster import Compute
from tasks.reproduce import DataRecipe, Reproduction, reproduce
from tasks.telemetry import publish


@flow(name="reproduce-run", flow_run_name="reproduce-{run}", on_running=[announce])
def reproduce_run(run: str, recipe: DataRecipe = DataRecipe(), compute: Compute = Compute()) -> Reproduction:
    """Trains again what the MLflow run `run` trained last, and holds the weights against each other."""
    return publish(reproduce(run, recipe, compute))
