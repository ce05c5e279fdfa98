"""The installed versions work together; an import alone would not tell."""

import importlib.metadata
import re
import subprocess
import sys

import pytest

from tasks import doctor
from tasks.processes import ROOT

PIN = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)$")


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {match[1].lower().replace("_", "-"): match[2] for line in lines if (match := PIN.match(line))}


def test_a_real_flow_runs() -> None:
    """Fails under Prefect 3.8 with FastAPI 0.151 and later, where importing works and no flow runs."""
    check = doctor._try("a Prefect flow", doctor.A_FLOW_RUN, "")
    assert check.ok, check.found


def test_a_broken_part_is_told_with_its_last_words() -> None:
    check = doctor._try("arithmetic", "raise SystemExit('two and two is five')", "count again")
    assert (check.ok, check.found, check.remedy) == (False, "two and two is five", "count again")


def test_the_doctor_shows_every_check_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    checks = [
        doctor.Check("fine", True, "all [good]", "nothing"),
        doctor.Check("ill", False, "cough", "rest"),
    ]
    doctor.render(checks)
    shown = capsys.readouterr().out
    assert "all [good]" in shown and "→ rest" in shown and "nothing" not in shown
    assert shown.count("✓") == 1 and shown.count("✗") == 1


def test_every_pin_can_be_met_anywhere() -> None:
    """No local tag, and nothing that only one build of torch brings along."""
    assert len(pins()) > 100
    assert not {name: version for name, version in pins().items() if "+" in version}
    assert not [name for name in pins() if name.startswith(("nvidia", "cuda", "triton"))]


def test_pins_are_what_is_installed() -> None:
    installed = {
        distribution.name.lower().replace("_", "-"): distribution.version.split("+")[0]
        for distribution in importlib.metadata.distributions()
    }
    differing = {
        name: (pin, installed[name]) for name, pin in pins().items() if installed.get(name, pin) != pin
    }
    assert not differing


@pytest.mark.parametrize(
    "module, heavy",
    [
        ("flows.__main__", ("torch", "ray", "mlflow", "prefect")),
        ("tasks.clean_text", ("torch", "ray", "mlflow")),
    ],
)
def test_importing_a_command_pulls_in_no_framework_that_it_does_not_use(
    module: str, heavy: tuple[str, ...]
) -> None:
    """`shoestring --help` must not wait for torch, nor hold it while gigabytes are cleaned."""
    program = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
