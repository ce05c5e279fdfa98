"""The pages in a real browser: a run started from the form, watched to its end, and compared in MLflow.

With SHOESTRING_SCREENSHOTS=FOLDER, the pictures of deployments/ are made anew, and MLflow's.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tasks.processes import ROOT
from tests.benchmarks.operate_runs import asked, pages

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
THERE = bool(BROWSER and DRIVER and importlib.util.find_spec("selenium"))
BUDGET, RUN_SECONDS, PATIENCE = "150s", 330, 120  # seconds that a busy machine may take to show a page
OFFLINE = ("background-networking", "component-update", "sync", "gpu", "quic")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not THERE, reason="wants Chromium, its driver and selenium"),
]


@pytest.fixture
def browser(tmp_path: Path) -> Iterator["Chrome"]:
    """A headless Chromium that calls nobody."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    switches = [f"--disable-{what}" for what in OFFLINE]
    switches += ["--headless=new", "--no-sandbox", "--no-first-run", "--window-size=1280,1000"]
    for switch in (*switches, f"--user-data-dir={tmp_path / 'browser'}"):
        options.add_argument(switch)
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    yield driver
    driver.quit()


@pytest.mark.timeout(RUN_SECONDS + 400)
def test_a_run_is_started_from_the_form_watched_and_compared(
    browser: "Chrome", fresh_home: Path, corpus_files: Path
) -> None:
    train(fresh_home, corpus_files)  # something to compare with
    with pages(fresh_home) as (prefect, mlflow):
        run = start_from_form(browser, prefect)
        browser.get(f"{prefect}/runs/flow-run/{run}")
        wait_for(lambda: "Plan the budget" in said(browser) or "Clean the corpus" in said(browser))
        wait_for(lambda: asked(f"{prefect}/api/flow_runs/{run}")["state"]["type"] == "COMPLETED", RUN_SECONDS)
        browser.refresh()
        wait_for(lambda: "Completed" in said(browser))
        click(browser, "Artifacts")
        wait_for(lambda: all(f"\n{key}\n" in said(browser) for key in ("plan", "trained", "registered")))
        keep(browser, "run_page.png")
        runs = asked(
            f"{mlflow}/ajax-api/2.0/mlflow/runs/search", {"experiment_ids": ["1"], "max_results": 50}
        )["runs"]
        judged = [one["info"]["run_id"] for one in runs if has(one, "test/bits")]
        assert len(judged) == 2
        both = json.dumps(judged).replace(" ", "")
        browser.get(f"{mlflow}/#/compare-runs?runs={both}&experiments=%5B%221%22%5D")
        wait_for(lambda: "Comparing 2 Runs" in said(browser) and "Parallel Coordinates" in said(browser))
        for close in elements(browser, "[data-component-id$='assistant.chat_panel.close']"):
            close.click()  # it takes a third of the page
        keep(browser, "compare_page.png")


def train(home: Path, corpus: Path) -> None:
    words = ["run", "my-text", "--set", f"source.paths={corpus}", "--set", "model.depth=1", "--budget", "90s"]
    done = subprocess.run(
        [sys.executable, "-m", "flows", *words, "--set", "validation.folds=0", "--home", str(home)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def start_from_form(browser: "Chrome", prefect: str) -> str:
    """Fills in the budget and presses Submit, as a person does; the run's id."""
    from selenium.webdriver.common.keys import Keys

    deployment = asked(f"{prefect}/api/deployments/name/train-best-model/train-on-demand")["id"]
    browser.get(f"{prefect}/deployments/deployment/{deployment}/run")
    fields: list[WebElement] = []

    def there() -> bool:
        fields[:] = [e for e in elements(browser, "textarea") if e.get_attribute("value") == "5m"]
        return bool(fields)

    wait_for(there)
    keep(browser, "run_form.png")
    fields[0].send_keys(Keys.CONTROL, "a")
    fields[0].send_keys(BUDGET)
    click(browser, "Submit")
    body = {"deployments": {"id": {"any_": [deployment]}}}
    found: list[dict[str, Any]] = []

    def started() -> bool:
        found[:] = asked(f"{prefect}/api/flow_runs/filter", body)
        return bool(found)

    wait_for(started)
    assert found[0]["parameters"]["budget"] == BUDGET
    return str(found[0]["id"])


def click(browser: "Chrome", text: str) -> None:
    """Presses the button or tab with this text."""
    found = [e for e in elements(browser, "button, a, [role=tab], .p-tab") if e.text.strip().startswith(text)]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", found[-1])
    time.sleep(0.5)
    found[-1].click()


def elements(browser: "Chrome", what: str) -> list["WebElement"]:
    from selenium.webdriver.common.by import By

    return browser.find_elements(By.CSS_SELECTOR, what)


def said(browser: "Chrome") -> str:
    """All that the page shows as text."""
    return " ".join(element.text for element in elements(browser, "body"))


def has(run: dict[str, Any], metric: str) -> bool:
    return any(one["key"] == metric for one in run["data"].get("metrics", ()))


def wait_for(what: Callable[[], bool], seconds: float = PATIENCE) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "the page did not come to show it"
        time.sleep(0.5)


def keep(browser: "Chrome", name: str) -> None:
    """Keeps a picture, if asked to."""
    if folder := os.environ.get("SHOESTRING_SCREENSHOTS"):
        browser.save_screenshot(str(Path(folder) / name))
