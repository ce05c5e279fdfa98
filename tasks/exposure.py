"""Letting other machines in: to an address, and never without a name and a password."""

import base64
import hmac
import importlib.util
import os
import secrets
from dataclasses import dataclass
from typing import Self

from tasks import home
from tasks.artifacts import InputError
from tasks.processes import LOOPBACK

LOGIN_VARIABLE = "SHOESTRING_LOGIN"
SHORTEST_PASSWORD = 12  # characters; the pages can start any training, and so any amount of work
OWN_NAMES = frozenset((LOOPBACK, "localhost"))


@dataclass(frozen=True)
class Exposure:
    """An address of this machine that pages listen to, and the login that all of them ask for."""

    host: str
    login: str  # name:password

    @classmethod
    def to(cls, host: str) -> Self:
        """With the login of the environment. Raises InputError where it is missing or weak, or cannot be asked for."""
        login = os.environ.get(LOGIN_VARIABLE, "")
        name, _, password = login.partition(":")
        if not name or not password:
            raise InputError(
                f"other machines are let in with a name and a password only: export {LOGIN_VARIABLE}=name:password"
            )
        if len(password) < SHORTEST_PASSWORD:
            raise InputError(
                f"the password in {LOGIN_VARIABLE} has {len(password)} characters: take {SHORTEST_PASSWORD} or more"
            )
        return cls(host, login)

    def check_pages(self) -> None:
        """Raises InputError where a page could not ask for the login."""
        if importlib.util.find_spec("flask_wtf") is None:
            raise InputError(
                "MLflow's page asks for a login only with what `pip install 'shoestring[expose]'` brings"
            )
        if os.environ.get("RAY_AUTH_MODE", "token") != "token":
            raise InputError("RAY_AUTH_MODE takes Ray's token away, and its ports are open: unset it")

    def for_prefect(self) -> dict[str, str]:
        """Settings of its server, and of all who speak to it."""
        return {"PREFECT_SERVER_API_AUTH_STRING": self.login, "PREFECT_API_AUTH_STRING": self.login}

    def for_mlflow(self) -> dict[str, str]:
        """Settings of its server, whose only user this becomes: the list of users is made anew at each start."""
        name, _, password = self.login.partition(":")
        users, settings = home.home() / "mlflow-users.db", home.home() / "mlflow-auth.ini"
        users.unlink(missing_ok=True)
        settings.write_text(
            "[mlflow]\ndefault_permission = NO_PERMISSIONS\n"
            f"database_uri = sqlite:///{users}\nadmin_username = {name}\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        )
        return {
            "MLFLOW_AUTH_CONFIG_PATH": str(settings),
            "MLFLOW_AUTH_ADMIN_PASSWORD": password,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),
        }

    def lets_in(self, authorization: str) -> bool:
        """Whether a request's `Authorization` header holds the login; takes as long for any that does not."""
        expected = "Basic " + base64.b64encode(self.login.encode()).decode()
        return hmac.compare_digest(authorization.encode(), expected.encode())


def exposed(host: str) -> Exposure | None:
    """What a host demands: nothing where only this machine reaches it. Raises InputError as `Exposure.to`."""
    return None if host in OWN_NAMES else Exposure.to(host)
