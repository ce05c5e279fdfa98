"""What outgrows a laptop, started for tests: PostgreSQL, an object store, Prefect and MLflow on them, and two hosts.

Hosts are network namespaces on a bridge, which take a Linux with iproute2 and its root; PostgreSQL is Debian's.
"""

import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

GATEWAY, HEAD, OTHER = "10.213.77.1", "10.213.77.2", "10.213.77.3"
BRIDGE = "shoestring0"
UP_SECONDS = 120.0
BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
WHY_NOT = (
    "wants Linux's root, iproute2 and PostgreSQL"
    if os.geteuid() != 0 or shutil.which("ip") is None or not BINARIES
    else ""
)


@dataclass(frozen=True)
class Host:
    """A network namespace with an address on the bridge."""

    name: str
    address: str

    def command(self, *words: str) -> list[str]:
        """The words, to be run there."""
        return ["ip", "netns", "exec", self.name, *words]

    def kill(self) -> None:
        """Everything that runs there is gone at once, as when the power fails."""
        found = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, check=True)
        if pids := found.stdout.split():
            subprocess.run(["kill", "-9", *pids], check=False)


@contextmanager
def hosts() -> Iterator[tuple[Host, Host]]:
    """Two hosts that see each other and this machine, at GATEWAY."""
    made = (Host("shoestring-head", HEAD), Host("shoestring-other", OTHER))
    _remove(made)
    _ip("link", "add", BRIDGE, "type", "bridge")
    _ip("addr", "add", f"{GATEWAY}/24", "dev", BRIDGE)
    _ip("link", "set", BRIDGE, "up")
    try:
        for number, host in enumerate(made):
            here, there = f"shoe{number}", f"shoe{number}in"
            _ip("netns", "add", host.name)
            _ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", host.name)
            _ip("link", "set", here, "master", BRIDGE, "up")
            for words in (
                ["addr", "add", f"{host.address}/24", "dev", there],
                ["link", "set", there, "up"],
                ["link", "set", "lo", "up"],
            ):
                _ip("-n", host.name, *words)
        yield made
    finally:
        for host in made:
            host.kill()
        _remove(made)


def _remove(made: tuple[Host, ...]) -> None:
    for host in made:
        subprocess.run(["ip", "netns", "del", host.name], capture_output=True, check=False)
    subprocess.run(["ip", "link", "del", BRIDGE], capture_output=True, check=False)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@dataclass(frozen=True)
class Servers:
    """Addresses that the hosts reach, and the environment that names them to a command."""

    postgres: str
    store: str
    prefect: str
    mlflow: str
    environment: dict[str, str]


@contextmanager
def servers(folder: Path) -> Iterator[Servers]:
    """Prefect and MLflow on PostgreSQL, with an object store, all at GATEWAY."""
    with ExitStack() as stack:
        database = stack.enter_context(postgres(folder / "postgres", 15432))
        store = f"http://{GATEWAY}:15000"
        keys = {
            "AWS_ACCESS_KEY_ID": "shoestring",
            "AWS_SECRET_ACCESS_KEY": "a-key-of-the-test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": store,
            "MLFLOW_S3_ENDPOINT_URL": store,
        }
        moto = [str(Path(sys.executable).with_name("moto_server")), "-H", GATEWAY, "-p", "15000"]
        stack.enter_context(running(moto, folder / "store.log", {}, f"{store}/moto-api/"))
        subprocess.run(["curl", "-sf", "-X", "PUT", f"{store}/shoestring"], check=True, capture_output=True)
        prefect, mlflow = f"http://{GATEWAY}:14200", f"http://{GATEWAY}:15001"
        settings = {
            "PREFECT_API_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://{database}/prefect",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_HOME": str(folder / "prefect"),
        }
        words = ["-m", "prefect", "server", "start", "--host", GATEWAY, "--port", "14200"]
        stack.enter_context(
            running([sys.executable, *words], folder / "prefect.log", settings, f"{prefect}/api/health")
        )
        words = ["-m", "mlflow", "server", "--host", GATEWAY, "--port", "15001", "--workers", "1"]
        words += ["--backend-store-uri", f"postgresql+psycopg2://{database}/mlflow", "--allowed-hosts", "*"]
        words += ["--artifacts-destination", "s3://shoestring/mlflow"]
        stack.enter_context(
            running([sys.executable, *words], folder / "mlflow.log", keys, f"{mlflow}/health")
        )
        names = {"PREFECT_API_URL": f"{prefect}/api", "MLFLOW_TRACKING_URI": mlflow}
        yield Servers(database, store, prefect, mlflow, names | keys)


@contextmanager
def postgres(folder: Path, port: int) -> Iterator[str]:
    """`user@host:port` of a server with databases for Prefect and MLflow; it does not run as root."""
    folder.mkdir(parents=True)
    shutil.chown(folder, "postgres", "postgres")
    for parent in folder.parents:  # pytest's folders are closed to other users
        if parent.owner() == "root" and parent.stat().st_mode & 0o005 != 0o005:
            parent.chmod(parent.stat().st_mode | 0o055)
    data = folder / "data"
    _as_postgres("initdb", "-D", str(data), "-A", "trust", "-U", "postgres")
    options = f"-c listen_addresses={GATEWAY} -c port={port} -c unix_socket_directories={folder}"
    (data / "pg_hba.conf").write_text(f"host all all {GATEWAY}/24 trust\nlocal all all trust\n")
    _as_postgres("pg_ctl", "-D", str(data), "-w", "-o", options, "-l", str(folder / "log"), "start")
    try:
        for name in ("prefect", "mlflow"):
            _as_postgres("createdb", "-h", str(folder), "-p", str(port), name)
        yield f"postgres@{GATEWAY}:{port}"
    finally:
        _as_postgres("pg_ctl", "-D", str(data), "-m", "fast", "-w", "stop")


def _as_postgres(program: str, *words: str) -> None:
    done = subprocess.run(
        [str(BINARIES[-1] / program), *words], user="postgres", capture_output=True, text=True, cwd="/"
    )
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def running(
    command: list[str], log: Path, settings: dict[str, str], health: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A server from when it answers until it is told to end."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=os.environ | settings)
    try:
        deadline = time.monotonic() + UP_SECONDS
        while not _answers(health):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.2)
        yield process
    finally:
        process.terminate()
        process.wait(30)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status < 400)
    except urllib.error.HTTPError as error:
        return error.code < 500
    except OSError:
        return False
