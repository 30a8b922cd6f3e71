"""A registry in MLflow: a registered model with the same versions and aliases.

The workspace stays the truth; MLflow is told what it lacks, so that what got lost on the way comes with the next time.
Versions are found again by a tag, since MLflow numbers them by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipelines.mlflow_client import MlflowClient, MlflowException, mlflow_client
from storage.errors import InfrastructureError
from storage.registry import Registry
from storage.registry_records import CHALLENGER, CHAMPION, Event, Version

__all__ = ["mirror_registry"]

_VERSION, _OUTCOME = "sailloft.version", "sailloft.outcome"
_EXISTS = "RESOURCE_ALREADY_EXISTS"
_PAGE_SIZE = 100
_MAX_VALUE = 500
"""Characters of a tag's value that every version of MLflow takes."""


def mirror_registry(registry: Registry, uri: str, model: str) -> int:
    """Tells MLflow of versions, of what became of them, and of aliases.

    Args:
        registry: what is mirrored.
        uri: server or store.
        model: name of the registered model, made if it doesn't exist.

    Returns:
        Number of versions that MLflow lacked.

    Raises:
        InfrastructureError: MLflow can't be reached or refuses.
        CorruptObject: the registry can't be read.
    """
    events, versions = registry.history(), registry.versions()
    try:
        return _Mirror(mlflow_client(uri), model).update(events, versions)
    except MlflowException as error:
        raise InfrastructureError(
            f"registered model {model} of MLflow at {uri}: {error.message}; check the URI and the credentials in the "
            "environment; the registry itself is whole"
        ) from error


class _Mirror:
    def __init__(self, client: MlflowClient, model: str) -> None:
        self._client, self._model = client, model

    def update(self, events: Sequence[Event], versions: Sequence[Version]) -> int:
        """Makes MLflow say the same; returns how many versions it lacked."""
        try:
            self._client.create_registered_model(self._model)
        except MlflowException as error:
            if error.error_code != _EXISTS:
                raise
        known = self._known()
        lacking = [version for version in versions if version.number not in known]
        for version in lacking:
            made = self._client.create_model_version(
                self._model, source=version.checkpoint.url, tags=_tags(version), description=_description(version)
            )
            known[version.number] = str(made.version), {}
        for number, outcome in _outcomes(events).items():
            name, tags = known[number]
            if tags.get(_OUTCOME) != outcome:
                self._client.set_model_version_tag(self._model, name, _OUTCOME, outcome)
        self._move_aliases({alias: known[number][0] for alias, number in events[-1].aliases.items()} if events else {})
        return len(lacking)

    def _known(self) -> dict[int, tuple[str, Mapping[str, str]]]:
        """MLflow's own number and the tags of each version that it has; of two that are one, the first."""
        known: dict[int, tuple[str, Mapping[str, str]]] = {}
        token: str | None = None
        while True:
            page = self._client.search_model_versions(f"name='{self._model}'", max_results=_PAGE_SIZE, page_token=token)
            for found in sorted(page, key=lambda item: int(item.version), reverse=True):
                if _VERSION in found.tags:
                    known[int(found.tags[_VERSION])] = str(found.version), found.tags
            token = page.token
            if not token:
                return known

    def _move_aliases(self, wanted: Mapping[str, str]) -> None:
        have = self._client.get_registered_model(self._model).aliases
        for alias in (CHAMPION, CHALLENGER):
            if alias in wanted and str(have.get(alias)) != wanted[alias]:
                self._client.set_registered_model_alias(self._model, alias, wanted[alias])
            elif alias in have and alias not in wanted:
                self._client.delete_registered_model_alias(self._model, alias)


def _tags(version: Version) -> dict[str, str]:
    return {
        _VERSION: str(version.number),
        "sailloft.checkpoint": version.checkpoint.key,
        "sailloft.corpus": version.corpora[-1].key,
        "sailloft.recipe": version.recipe_key,
        "sailloft.code": str(version.code),
        **({} if version.parent is None else {"sailloft.parent": str(version.parent)}),
    }


def _description(version: Version) -> str:
    start = "by itself" if version.parent is None else f"from version {version.parent}"
    return f"Version {version.number} of a Sailloft registry, trained {start}."


def _outcomes(events: Sequence[Event]) -> dict[int, str]:
    """What happened last to each version, and why."""
    last = {event.version: event for event in events}
    return {
        number: ": ".join([event.happening.value, *(["; ".join(event.reasons)] if event.reasons else [])])[:_MAX_VALUE]
        for number, event in last.items()
    }
