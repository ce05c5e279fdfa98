"""Who is champion, who was, and why: promotion by the gate or by hand, rollback, history.

A registered model remembers its champions as a list of versions in a tag, the present one last. It is
written before the alias moves to a new champion and after it moves back; whatever is killed in between, reading
cuts the list behind the version that the alias names, so the alias alone decides.
"""

import getpass
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from safetensors import SafetensorError

from tasks import tracking
from tasks.artifacts import InputError
from tasks.generate import fetch, load, no_such_model
from tasks.verdict import TAG, Verdict

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPIONS_TAG = "shoestring.champions"
MOVE_TAG = "shoestring.move"  # followed by its time: a version may be named more than once
MOST_CHAMPIONS = 200  # that are remembered
NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
How = Literal["promote", "rollback"]


def champion_of(client: "MlflowClient", name: str, alias: str) -> "ModelVersion | None":
    """The present champion, or None where there is none yet."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code not in NOT_THERE:
            raise
        return None


def champions(client: "MlflowClient", name: str) -> list[int]:
    """The versions that were champion one after the other, without what was rolled back; the present one is last."""
    model = client.get_registered_model(name)
    known = json.loads(model.tags.get(CHAMPIONS_TAG, "[]"))
    alias = model.aliases.get(tracking.settings().aliases.champion)
    if alias is None:
        return []
    while known and known[-1] != int(alias) and int(alias) in known:
        known.pop()
    return known if known and known[-1] == int(alias) else [*known, int(alias)]


def name_champion(client: "MlflowClient", name: str, version: int) -> None:
    """Moves the alias to a version, which must be complete; killed at any moment, the old or the new is champion."""
    before = champions(client, name)
    if not before or before[-1] != version:
        remember(client, name, [*before, version])
    client.set_registered_model_alias(name, tracking.settings().aliases.champion, str(version))


def remember(client: "MlflowClient", name: str, versions: list[int]) -> None:
    """Writes the list."""
    client.set_registered_model_tag(name, CHAMPIONS_TAG, json.dumps(versions[-MOST_CHAMPIONS:]))


def promote(name: str, version: int | None, reason: str | None) -> str:
    """Names a version champion, by default the newest; what became of it, as a sentence.

    Raises InputError where there is no such model or version, it is champion already, or it does not load.
    """
    client = tracking.client_that_answers()
    full = full_name(client, name)
    aliases = tracking.settings().aliases
    if version is None:
        newest = champion_of(client, full, aliases.challenger)
        if newest is None:
            raise InputError(
                f"{full} has no version {aliases.challenger!r}: name one, as in `promote {name} 3`"
            )
        version = int(newest.version)
    chosen = loads(client, full, version)
    before = champion_of(client, full, aliases.champion)
    if before and int(before.version) == version:
        raise InputError(f"version {version} of {full} is the champion already")
    record(client, chosen, "promote", before, reason)
    name_champion(client, full, version)
    return (
        f"{full}: version {version} is champion{f', instead of version {before.version}' if before else ''}"
    )


def rollback(name: str, reason: str | None) -> str:
    """Names the champion before the present one; what became of it, as a sentence.

    Versions that were deleted meanwhile are passed over. Raises InputError where there is none before, or it
    does not load.
    """
    client = tracking.client_that_answers()
    full = full_name(client, name)
    known, there = champions(client, full), versions_of(client, full)
    before = [version for version in known[:-1] if version in there and version != known[-1]]
    if not before:
        raise InputError(
            f"{full} has no champion before {f'version {known[-1]}' if known else 'the first'}: there is nothing to go"
            f" back to. `shoestring history {name}` lists the versions, `shoestring promote {name} VERSION` names one"
        )
    chosen = loads(client, full, before[-1])
    record(client, chosen, "rollback", there.get(known[-1]), reason)
    client.set_registered_model_alias(full, tracking.settings().aliases.champion, str(before[-1]))
    remember(client, full, known[: len(known) - known[::-1].index(before[-1])])
    return f"{full}: version {before[-1]} is champion again, instead of version {known[-1]}"


def record(
    client: "MlflowClient",
    chosen: "ModelVersion",
    how: How,
    before: "ModelVersion | None",
    reason: str | None,
) -> None:
    """A tag on the version that says who named it champion, when, instead of which, and why."""
    when = datetime.now(UTC)
    told = {
        "how": how,
        "who": who(),
        "when": when.isoformat(timespec="seconds"),
        "instead_of": int(before.version) if before else None,
        "why": reason,
    }
    key = f"{MOVE_TAG}.{when:%Y-%m-%dT%H-%M-%S-%f}"
    client.set_model_version_tag(chosen.name, chosen.version, key, json.dumps(told))


def who() -> str:
    """The user's name on this machine; some containers have none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def loads(client: "MlflowClient", name: str, version: int) -> "ModelVersion":
    """The version, once its model has been loaded. Raises InputError where there is none or it does not."""
    found = versions_of(client, name).get(version)
    if found is None:
        known = ", ".join(map(str, sorted(versions_of(client, name))))
        raise InputError(f"{name} has no version {version}, only {known}")
    try:
        load(fetch(client, found))
    except (OSError, ValueError, RuntimeError, SafetensorError) as problem:
        raise InputError(
            f"version {version} of {name} does not load ({problem}): it stays as it was"
        ) from None
    return found


def versions_of(client: "MlflowClient", name: str) -> dict[int, "ModelVersion"]:
    """All versions by their numbers."""
    return {int(found.version): found for found in client.search_model_versions(f"name = '{name}'")}


def full_name(client: "MlflowClient", name: str) -> str:
    """The registered name that a user means, who may leave out the prefix. Raises InputError where there is none."""
    from mlflow.exceptions import MlflowException

    for full in (name, tracking.settings().registry_prefix + name):
        try:
            return str(client.get_registered_model(full).name)
        except MlflowException as error:
            if error.error_code not in NOT_THERE:
                raise
    raise no_such_model(client, name)


def history(name: str) -> list[dict[str, Any]]:
    """Every version, the newest first: when, score, verdict, how it was named by hand, aliases, run."""
    client = tracking.client_that_answers()
    full = full_name(client, name)
    aliases = client.get_registered_model(full).aliases
    found = []
    for version, entry in sorted(versions_of(client, full).items(), reverse=True):
        verdict = Verdict.from_tags(entry.tags) if f"{TAG}.verdict" in entry.tags else None
        moves = [json.loads(entry.tags[key]) for key in sorted(entry.tags) if key.startswith(MOVE_TAG)]
        found.append(
            {
                "version": version,
                "when": datetime.fromtimestamp(entry.creation_timestamp / 1000, UTC).isoformat(
                    timespec="minutes"
                ),
                "score": verdict.challenger_bits if verdict else None,
                "unit": verdict.unit if verdict else None,
                "verdict": verdict.sentence if verdict else None,
                "moves": moves,
                "aliases": sorted(alias for alias, of in aliases.items() if int(of) == version),
                "run": entry.run_id,
            }
        )
    return found


def tell_history(name: str, found: list[dict[str, Any]], as_json: bool) -> None:
    """Prints the history: a table for a person, or the rows as the last line for a program."""
    from rich.console import Console
    from rich.table import Table

    if as_json:
        print(json.dumps(found))
        return
    table = Table("version", "when (UTC)", "score", "verdict", "aliases", "run", title=f"Versions of {name}")
    for row in found:
        score = f"{row['score']:.4f} {row['unit']}" if row["score"] is not None else ""
        moves = [
            f"{move['how']} by {move['who']}, {move['when'][:16]}{': ' + move['why'] if move['why'] else ''}"
            for move in row["moves"]
        ]
        verdict = "\n".join([row["verdict"] or "", *moves])
        table.add_row(
            str(row["version"]),
            row["when"][:16],
            score,
            verdict,
            ", ".join(row["aliases"]),
            (row["run"] or "")[:8],
        )
    Console().print(table)
