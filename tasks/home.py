"""Where everything lies: the home folder, and the environment that the stack reads.

Import this before prefect, ray, mlflow or transformers: they read the environment when imported.
"""

import logging
import os
from pathlib import Path

from tasks.secrets import moved_out_of

HOME_VARIABLE = "SHOESTRING_HOME"
STARTED_VARIABLE = "SHOESTRING_STARTED"  # set by the command line: Unix time when its process began

# For processes that train on a CPU; the C library and OpenMP read them when a process starts.
FOR_SPEED = {
    "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads cost 65 % when the machine is busy
    # glibc gives freed memory back at once, and each step pays to have it again: 10 to 60 % of its time; see DECISIONS
    "MALLOC_ARENA_MAX": "1",  # what other arenas hold is given back whatever the next two say
    "MALLOC_MMAP_THRESHOLD_": "33554432",  # the highest that all versions of glibc take
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
}

# Quiet, offline-friendly and small; whoever sets a variable beforehand keeps it.
DEFAULTS = {
    **FOR_SPEED,
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # by default, a server that is away holds a caller up for four minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # 1.5 GB of workers that nothing here uses
    "PREFECT_CLIENT_MAX_RETRIES": "3",  # 14 s; at five, a run whose server is gone would take two minutes to end
    "PREFECT_LOGGING_EXTRA_LOGGERS": "shoestring",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_prestart_worker_first_driver": "0",  # processes that nothing here uses
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",  # at 0.1, the controller takes 3 % of a core
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "5",  # by default a minute is spent on waiting for a dead machine
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # Ray would let every other process go first; the budget runs on
    "TOKENIZERS_PARALLELISM": "true",
    "TRANSFORMERS_VERBOSITY": "error",  # it warns of kernels that only a GPU has
}

# Addresses, which are logged and shown, and where their user's name and password go instead; of Prefect both to one.
LOGINS = {
    "PREFECT_API_URL": ("PREFECT_API_AUTH_STRING", "PREFECT_API_AUTH_STRING"),
    "MLFLOW_TRACKING_URI": ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"),
    "MLFLOW_REGISTRY_URI": ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"),
}

# For commands that draw their own lines on the terminal.
QUIET = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",  # a line for each event that a server which is away does not get
}


def home() -> Path:
    """The home folder, absolute: `$SHOESTRING_HOME`, or `./.shoestring`."""
    return Path(os.environ.get(HOME_VARIABLE, ".shoestring")).expanduser().absolute()


def use_home(folder: Path | None = None) -> Path:
    """Settle on `folder` (or the present one) as home, make it, and point the stack there.

    Raises OSError where the folder cannot be made or written.
    """
    if folder is not None:
        os.environ[HOME_VARIABLE] = str(folder.expanduser().absolute())
    place = home()
    os.environ[HOME_VARIABLE] = str(place)
    place.mkdir(parents=True, exist_ok=True)
    probe = place / f".writable-{os.getpid()}"
    probe.write_bytes(b"shoestring")
    probe.unlink()
    os.environ.setdefault("PREFECT_HOME", str(place / "prefect"))
    for name, login in LOGINS.items():
        if given := os.environ.get(name):
            os.environ[name] = moved_out_of(given, *login)
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    return place


def quiet() -> None:
    """Leaves the terminal to this command's own lines; the stack's go to the server alone."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    logging.raiseExceptions = False  # of what a record could not be sent to; it says so for each record


def store(kind: str) -> Path:
    """The folder of one kind of stored bytes: `store("tokens") / key / ...`."""
    return home() / "store" / kind


def run_folder(run_id: str) -> Path:
    """What one flow run writes: its clock, study, journals, checkpoints, plots and model."""
    return home() / "runs" / run_id
