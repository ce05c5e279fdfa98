"""Is there reason to train again: documents that the champion does not know, or a shift in what it sees."""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from prefect import task
from pydantic import Field

from tasks import home, tracking
from tasks.artifacts import Corpus, Record
from tasks.champions import champion_of
from tasks.clean import Cleaning, store_corpus
from tasks.drift import FEWEST_DOCUMENTS, Shift, as_judged, drifted, shifts_between, surprise
from tasks.generate import fetch
from tasks.register import Promotion
from tasks.source import Files, Hub
from tasks.store import content_key, stored
from tasks.telemetry import stage
from training.budget import parse_budget
from training.config import AnyOf, Choice, Section

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

JUDGED_ON = "report/test_documents.parquet"
LOOKING_SHARE, LOOKING_SECONDS = 0.05, 60.0  # of the budget, and at most, to read what is seen


class NewDocuments(Choice):
    """The documents of the source that are new since the champion was trained."""

    kind: Literal["new_documents"] = "new_documents"

    def describe(self) -> str:
        """One line that a person recognises."""
        return "the source that are new"

    def check(self, labelled: bool = False) -> None:
        """There is nothing that could be missing."""


Seen = Annotated[
    NewDocuments | Files | Hub,
    Field(
        discriminator="kind",
        description="What the model is given to work on these days. Held against what the champion was judged on, it"
        " shows whether the model still meets what it was made for. It is not trained on.",
    ),
    AnyOf(),
]


class Retraining(Section):
    """When it is time to train again, and how the budget is divided then."""

    least_new_documents: int = Field(
        default=1,
        ge=1,
        le=10**12,
        description="So many documents that the champion has not been trained on are reason enough. With 1, a single"
        " one costs a whole budget.",
    )
    alpha: float = Field(
        default=0.01,
        gt=0,
        lt=0.5,
        description="How often drift is seen where there is none, lengths and surprise together: with 0.01, one"
        " training in a hundred looks is in vain. Lower, small shifts go unseen for longer.",
    )
    continued_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Part of the budget that goes on from the champion's weights, with its size and its tokenizer; the"
        " rest begins anew, and may choose others. 1: only goes on. 0: only begins anew.",
    )


class News(Record):
    """What is new since the champion was trained, and whether it is reason to train again."""

    kind: ClassVar[str] = "news"
    stage: ClassVar[str] = "Look for news"
    model_name: str
    champion_version: int | None  # None: there is none of this name
    champion_corpus: str = ""  # the key of its corpus
    champion_folder: str = ""  # its model
    documents: int  # of the source, cleaned
    new_documents: int | None = None  # that the champion's corpus did not have; None: that is not known
    gone_documents: int | None = None  # that only the champion's corpus had
    seen: str = ""  # what the champion was tried on
    shifts: tuple[Shift, ...] = ()
    untold: str = ""  # why nothing can be said of drift
    alpha: float
    least_new_documents: int

    @property
    def drifted(self) -> bool:
        """Whether lengths or surprise have shifted beyond chance."""
        return drifted(self.shifts, self.alpha)

    @property
    def due(self) -> bool:
        """Whether there is reason to train."""
        return (
            self.champion_version is None
            or self.new_documents is None
            or self.new_documents >= self.least_new_documents
            or self.drifted
        )

    @property
    def sentence(self) -> str:
        """The reasons to train, or that there are none, with the numbers."""
        if self.champion_version is None:
            return f"{self.model_name} has no champion yet, so there is all to train"
        about = "enough is new" if self.due else "nothing is new"
        return f"{about} since version {self.champion_version}: {self._of_documents()}; {self._of_drift()}"

    def _of_documents(self) -> str:
        if self.new_documents is None:
            gone = f"its corpus ({self.champion_corpus or 'which its run does not name'}) is not in the store"
            return f"{gone}, so all {self.documents:,} documents count as new"
        told = f"{self.new_documents:,} of {self.documents:,} documents are new"
        if self.new_documents and self.new_documents < self.least_new_documents:
            told += f" ({self.least_new_documents:,} wanted)"
        return told + f", {self.gone_documents:,} gone" * bool(self.gone_documents)

    def _of_drift(self) -> str:
        if not self.shifts:
            return f"of drift nothing can be told: {self.untold}"
        said = "drift" if self.drifted else "no drift"
        figures = "; ".join(shift.sentence for shift in self.shifts)
        where = f"{self.shifts[0].documents_now:,} documents of {self.seen}"
        return f"{said} in {where}: {figures}; alpha {self.alpha:g} for both"

    def rows(self) -> list[dict[str, Any]]:
        """The counts, then each test."""
        counts = ("champion_version", "documents", "new_documents", "gone_documents", "least_new_documents")
        found: list[dict[str, Any]] = [{"figure": "verdict", "value": self.sentence}]
        found += [{"figure": name.replace("_", " "), "value": getattr(self, name)} for name in counts]
        for shift in self.shifts:
            found.append({"figure": f"{shift.figure}, median before", "value": shift.before})
            found.append({"figure": f"{shift.figure}, median now", "value": shift.now})
            found.append({"figure": f"{shift.figure}, p", "value": shift.p_value})
        return [*found, {"figure": "alpha, all tests together", "value": self.alpha}]


@task(name=News.stage, task_run_name="look for news of {promotion.name}")
def look_for_news(
    corpus: Corpus, promotion: Promotion, seen: Seen, cleaning: Cleaning, retraining: Retraining, budget: str
) -> News:
    """Holds the corpus against that of the present champion, and what is seen against what it was judged on.

    What is seen is cleaned as the corpus is. Raises InputError where MLflow does not answer.
    """
    with stage(News.stage) as shown:
        limit = min(LOOKING_SECONDS, LOOKING_SHARE * parse_budget(budget).like_seconds)
        news = find_news(corpus, promotion, seen, cleaning, retraining, limit)
        shown.result = news.sentence
    return news


def find_news(
    corpus: Corpus,
    promotion: Promotion,
    seen: Seen,
    cleaning: Cleaning,
    retraining: Retraining,
    limit_seconds: float,
) -> News:
    """The same without Prefect; the champion reads for `limit_seconds` at most."""
    settings, client = tracking.settings(), tracking.client_that_answers()
    name = settings.registry_prefix + promotion.name
    champion = champion_of(client, name, settings.aliases.champion)
    nothing = News(
        key=content_key("news", corpus.key, name, champion and champion.version, seen, retraining),
        model_name=name,
        champion_version=champion and int(champion.version),
        documents=corpus.documents,
        alpha=retraining.alpha,
        least_new_documents=retraining.least_new_documents,
    )
    if champion is None:
        return nothing
    there = _documents(corpus.key)
    known_as = _corpus_of(client, champion)
    known = _documents(known_as)["id"] if stored(Corpus.kind, known_as) else None
    fresh = there.filter(pc.invert(pc.is_in(there["id"], value_set=known))) if known is not None else None
    found: dict[str, Any] = {"champion_corpus": known_as, "champion_folder": str(fetch(client, champion))}
    if known is not None and fresh is not None:
        gone = pc.sum(pc.invert(pc.is_in(known, value_set=there["id"]))).as_py() or 0
        found |= {"new_documents": len(fresh), "gone_documents": gone}
    if not isinstance(seen, NewDocuments):
        fresh = _documents(store_corpus(seen, cleaning).key)
        if known is not None:  # what it was trained on it knows by heart
            fresh = fresh.filter(pc.invert(pc.is_in(fresh["id"], value_set=known)))
    found["seen"] = seen.describe()
    return nothing.model_copy(update=found | _drift(client, champion, fresh, found, limit_seconds))


def _drift(
    client: "MlflowClient",
    champion: "ModelVersion",
    fresh: pa.Table | None,
    found: dict[str, Any],
    limit_seconds: float,
) -> dict[str, Any]:
    """The champion's lengths and surprise on what it was judged on and on `fresh`, or why they are not told."""
    if fresh is None or len(fresh) < FEWEST_DOCUMENTS:
        there = 0 if fresh is None else len(fresh)
        return {"untold": f"{there} documents of {found['seen']} are too few ({FEWEST_DOCUMENTS} needed)"}
    from mlflow.exceptions import MlflowException

    try:
        with tempfile.TemporaryDirectory() as scratch:
            scores = pq.read_table(client.download_artifacts(champion.run_id, JUDGED_ON, scratch))
    except (MlflowException, OSError) as problem:
        return {"untold": f"MLflow does not have what version {champion.version} was judged on ({problem})"}
    before = as_judged(scores)
    if len(before) < FEWEST_DOCUMENTS:
        return {
            "untold": f"{len(before)} test documents of the champion are too few ({FEWEST_DOCUMENTS} needed)"
        }
    return {"shifts": shifts_between(before, surprise(Path(found["champion_folder"]), fresh, limit_seconds))}


def _corpus_of(client: "MlflowClient", version: "ModelVersion") -> str:
    """The key of the corpus that a version was trained on, as its run in MLflow names it; empty where it does not."""
    for given in client.get_run(version.run_id).inputs.dataset_inputs:
        if given.dataset.source_type == "shoestring":
            return str(json.loads(given.dataset.source)["corpus"])
    return ""


def _documents(corpus: str) -> pa.Table:
    """Id, text and bytes of a stored corpus."""
    path = home.store(Corpus.kind) / corpus / "documents.parquet"
    return pq.read_table(path, columns=["id", "text", "bytes"])
