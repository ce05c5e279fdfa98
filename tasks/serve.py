"""`shoestring serve`: a model behind MLflow's scoring app, on this machine, with a door before it."""

import logging
import socket
import threading
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.protos.databricks_pb2 import BAD_REQUEST
from mlflow.pyfunc import PyFuncModel
from mlflow.pyfunc.scoring_server import init
from mlflow.types import ParamSchema, ParamSpec
from rich.console import Console

from tasks.door import App, Asked, Door, Limits, Rules
from tasks.exposure import Exposure
from tasks.generate import load, resolve_model
from tasks.heads import USES, head_of
from tasks.predict import answers
from tasks.processes import bound_socket
from tasks.writing import write
from training.model import Head

PREFERRED_PORT = 5001  # beside MLflow's page
CONNECTIONS = 64  # open at once; more are refused by uvicorn
HEADER_BYTES = 16_384
END_SECONDS = 5  # for requests in work, at the end


class Served:
    """A model as MLflow's app calls it: texts in, answers out, one request after the other."""

    def __init__(self, model_folder: Path) -> None:
        """Loads the model, of any head. Raises InputError where it is refused; nothing of an MLmodel is read."""
        self._model, self._tokenizer = load(model_folder)
        self._one_at_a_time = threading.Lock()
        self._counting = threading.Lock()
        self.in_work = 0

    @property
    def head(self) -> Head:
        return head_of(self._model.config)

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """One answer for each text; raises MlflowException where the model has none for one of them."""
        texts = [str(text) for text in np.ravel(np.asarray(data, dtype=object))]
        with self._counting:
            self.in_work += 1
        try:
            with self._one_at_a_time:
                found = self._answers(texts, params or {})
        finally:
            with self._counting:
                self.in_work -= 1
        for number, answer in enumerate(found, start=1):
            if "error" in answer:
                raise MlflowException(f"text {number}: {answer['error']}", error_code=BAD_REQUEST)
        return found

    def _answers(self, texts: list[str], params: dict[str, Any]) -> list[dict[str, Any]]:
        if self.head != "causal":
            return answers(self._model, self._tokenizer, texts)
        wish = Asked.model_validate(
            {name: value for name, value in params.items() if value is not None}
        ).wish()
        made = write(self._model, self._tokenizer, texts, range(len(texts)), wish)
        return [{"prompt": p, "completion": c} for p, c in zip(texts, made, strict=True)]


def app_of(model_folder: Path, limits: Limits, exposure: Exposure | None = None) -> tuple[App, Head]:
    """MLflow's scoring app for a model folder, with the door before it, and what the model is for.

    POST /invocations answers texts; /ping, /health and /version say that it lives. With
    `exposure` to whoever has the login, else to this machine. Raises InputError where model or limits are refused.
    """
    served = Served(model_folder)
    rules = Rules(limits, served.head)
    signature = ModelSignature(params=ParamSchema(_params())) if served.head == "causal" else None
    app = init(PyFuncModel(Model(signature=signature), served))
    return Door(app, rules, limits, exposure, lambda: served.in_work), served.head


def _params() -> list[ParamSpec]:
    kinds = {"tokens": "long", "temperature": "double", "top_k": "long", "seed": "long"}
    return [ParamSpec(name, kind, Asked.model_fields[name].default) for name, kind in kinds.items()]


def serve(
    reference: str | None, host: str, port: int | None, limits: Limits, exposure: Exposure | None
) -> None:
    """Serves a model until ctrl-c, other machines with the login of `exposure` only.

    Raises InputError for a model that is refused, and for a port that is taken.
    """
    folder = resolve_model(reference)
    with bound_socket(port, "--port", PREFERRED_PORT, host) as listening:
        app, head = app_of(folder, limits, exposure)
        _tell(folder, reference, head, listening)
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        config = uvicorn.Config(
            app,
            log_level="error",
            access_log=False,
            server_header=False,
            limit_concurrency=CONNECTIONS,
            h11_max_incomplete_event_size=HEADER_BYTES,
            http="h11",
            ws="none",
            timeout_keep_alive=5,
            timeout_graceful_shutdown=END_SECONDS,
        )
        try:
            uvicorn.Server(config).run(sockets=[listening])
        except KeyboardInterrupt:  # which uvicorn raises again when all is closed
            pass


def _tell(folder: Path, reference: str | None, head: Head, listening: socket.socket) -> None:
    host, port = listening.getsockname()
    address = f"http://{host}:{port}"
    text = {"causal": "def main", "masked": "for [MASK] in range(3):", "classification": "a text"}[head]
    console = Console(stderr=True, highlight=False)
    console.print(
        f"Serving {USES[head].article_noun} ({reference or folder}) at {address}/invocations; ctrl-c stops.\n"
        f"curl {address}/invocations -H 'Content-Type: application/json' -d '{{\"inputs\": [\"{text}\"]}}'",
        soft_wrap=True,
        markup=False,
    )
