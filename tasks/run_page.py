"""What a run's page in Prefect shows beside its states. Where the server is away, the run goes on without."""

import logging
import os
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import httpx
from prefect.context import FlowRunContext, TaskRunContext

from tasks.server import API_VARIABLE, answers

ANSWER_SECONDS = 2.0
log = logging.getLogger("shoestring")
P = ParamSpec("P")
T = TypeVar("T")


def in_a_run() -> bool:
    """Whether there is a Prefect run that an artifact could belong to."""
    return FlowRunContext.get() is not None or TaskRunContext.get() is not None


def show(make: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T | None:
    """Has one of Prefect's functions make or change an artifact; None outside a run, and where nobody answers.

    Prefect itself would try for a minute, and then end the run.
    """
    if not in_a_run():
        return None
    url = os.environ.get(API_VARIABLE)
    if url and not answers(url, ANSWER_SECONDS):
        log.warning("the Prefect server does not answer: its page lacks what would be shown now")
        return None
    try:
        return make(*arguments, **named)
    except httpx.TransportError as problem:
        log.warning("the Prefect server went away: its page lacks what would be shown now (%s)", problem)
        return None
