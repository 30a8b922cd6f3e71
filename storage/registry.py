"""The registry of students: which versions there are, which one is the champion, and how that came about.

    versions/<number>.json     create-only: a student, and what it was made of
    events/<number>.json       create-only: what happened, why, and all aliases from then on
    plans/<retrain key>.json   create-only: what a retrain starts from

Nothing is overwritten. The newest event tells how things stand, and whoever wants to change that writes the next
number: of two who do so at once one gets it, and the other looks at the new state and decides again. Locks may save
work; nothing here depends on them.

A version counts from its event `registered` on. Where a writer was killed between the two, the next one that registers
writes the event in its place.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TypeVar

from storage.errors import CorruptObject, ObjectNotFound, UsageError
from storage.numbered import NumberedObjects
from storage.objects import Objects
from storage.registry_records import (
    CHALLENGER,
    CHAMPION,
    Comparison,
    Event,
    Happening,
    RetrainPlan,
    Version,
    VersionFacts,
    decode_record,
    encode_record,
)

__all__ = ["REGISTRIES", "Registry"]

REGISTRIES = "registry"
"""Prefix of the registries below a workspace, each in a folder of its name."""

RecordT = TypeVar("RecordT", Event, Version)

_NUM_DIGITS = 6
_NUM_READ_AT_ONCE = 16


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class Registry:
    """One registry.

    Args:
        objects: its prefix.
        now: tells the moment that events are stamped with.
    """

    def __init__(self, objects: Objects, now: Callable[[], str] = _now) -> None:
        self.objects = objects
        self._now = now
        self._versions = NumberedObjects(objects, "versions", _NUM_DIGITS)
        self._events = NumberedObjects(objects, "events", _NUM_DIGITS)

    @property
    def url(self) -> str:
        """Where it lies."""
        return self.objects.url

    def state(self) -> Event | None:
        """The newest event, which tells how things stand; None: nothing is registered.

        Raises:
            CorruptObject: it can't be read, or an earlier one is missing.
        """
        number = self._events.newest_without_gaps()
        return None if number is None else self.event(number)

    def event(self, number: int) -> Event:
        """One event.

        Raises:
            CorruptObject: it is missing or can't be read.
        """
        event = decode_record(Event, self._read(self._events, number), self._events.url(number))
        if event.number != number:
            raise CorruptObject(f"{self._events.url(number)}: holds event {event.number}; restore it")
        return event

    def version(self, number: int) -> Version:
        """One version.

        Raises:
            CorruptObject: it is missing or can't be read.
        """
        version = decode_record(Version, self._read(self._versions, number), self._versions.url(number))
        if version.number != number:
            raise CorruptObject(f"{self._versions.url(number)}: holds version {version.number}; restore it")
        return version

    def history(self) -> list[Event]:
        """All events, the first one first; raises as `event`."""
        state = self.state()
        return [] if state is None else [*self._many(self.event, state.number - 1), state]

    def versions(self) -> list[Version]:
        """All registered versions; raises as `version`."""
        state = self.state()
        return [] if state is None else self._many(self.version, state.num_versions)

    def backward(self, state: Event | None, until: int = 0) -> Iterator[Event]:
        """Events from a state back to the one behind number `until`."""
        while state is not None and state.number > until:
            yield state
            state = self.event(state.number - 1) if state.number > 1 else None

    def register(self, facts: VersionFacts) -> Version:
        """Adds a student as the challenger.

        Returns:
            Its version. If the one who was to be next has the same checkpoint, then that one: it is the same retrain,
            in another process or in one that was killed.

        Raises:
            InfrastructureError: the store can't be reached.
            CorruptObject: what stands there can't be read.
        """
        own: Version | None = None
        while True:
            state = self.state()
            num_versions = 0 if state is None else state.num_versions
            if own is not None and own.number <= num_versions:
                return own
            following = own or self._claim(facts, num_versions + 1)
            if following.checkpoint.key == facts.checkpoint.key:
                own = following
            aliases = {**({} if state is None else state.aliases), CHALLENGER: following.number}
            key = following.retrain_key
            self._append(self._event(state, Happening.REGISTERED, following.number, aliases, retrain_key=key))

    def promote(self, number: int, reasons: Sequence[str]) -> Event:
        """Makes a version the champion by hand.

        Raises:
            UsageError: there is no such version, or it is the champion.
        """

        def event(state: Event | None) -> Event:
            known = self._known(state, number)
            if known.champion == number:
                raise UsageError(f"{self.url}: version {number} is the champion already")
            return self._event(known, Happening.PROMOTED, number, _promoted(known.aliases, number), reasons)

        return self._append_on_newest(event)

    def decide(
        self, version: Version, promoted: bool, reasons: Sequence[str], comparison: Comparison | None
    ) -> Event | None:
        """Notes what comes of a challenger: whether it is the champion from now on.

        Args:
            version: the challenger.
            promoted: whether it becomes the champion.
            reasons: why.
            comparison: by what figures; None: there is no champion to compare it with.

        Returns:
            The event; None if the champion isn't the one of the comparison by now: compare again.
        """
        champion = None if comparison is None else comparison.champion
        happening = Happening.PROMOTED if promoted else Happening.REFUSED
        key = version.retrain_key
        while True:
            state = self._known(self.state(), version.number)
            if state.champion != champion:
                return None
            aliases = _promoted(state.aliases, version.number) if promoted else state.aliases
            event = self._event(state, happening, version.number, aliases, reasons, comparison, key)
            if self._append(event):
                return event

    def roll_back(self, reasons: Sequence[str]) -> Event:
        """Makes the version the champion that was it before the champion of now was promoted.

        Raises:
            UsageError: there is none.
        """

        def event(state: Event | None) -> Event:
            target = self.champion_before(state)
            aliases = {**({} if state is None else state.aliases), CHAMPION: target}
            return self._event(state, Happening.ROLLED_BACK, target, aliases, reasons)

        return self._append_on_newest(event)

    def champion_before(self, state: Event | None) -> int:
        """Version that was the champion when that of a state was promoted last.

        Raises:
            UsageError: there is none.
        """
        champion = None if state is None else state.champion
        promoted = False
        for event in self.backward(state):
            if promoted:
                if event.champion is None:
                    break
                return event.champion
            promoted = event.happening is Happening.PROMOTED and event.version == champion
        now = "there is no champion" if champion is None else f"version {champion} is the first champion"
        raise UsageError(
            f"{self.url}: expected an earlier champion, found none: {now}; promote a version by its number"
        )

    def plan(self, retrain_key: str) -> RetrainPlan | None:
        """What a retrain starts from, if it has begun; raises CorruptObject."""
        key = _plan_key(retrain_key)
        try:
            data = self.objects.read(key)
        except ObjectNotFound:
            return None
        return decode_record(RetrainPlan, data, f"{self.url}/{key}")

    def begin(self, retrain_key: str) -> RetrainPlan:
        """What a retrain starts from: the champion of now, or what was noted when it began before."""
        state = self.state()
        plan = RetrainPlan(
            retrain_key=retrain_key,
            champion=None if state is None else state.champion,
            after_event=0 if state is None else state.number,
        )
        if self.objects.create(_plan_key(retrain_key), encode_record(plan)):
            return plan
        found = self.plan(retrain_key)
        assert found is not None, "nobody deletes plans"
        return found

    def last_event_of(self, plan: RetrainPlan) -> Event | None:
        """The newest event of a retrain; None: it hasn't come to register its student."""
        events = self.backward(self.state(), plan.after_event)
        return next((event for event in events if event.retrain_key == plan.retrain_key), None)

    def _claim(self, facts: VersionFacts, number: int) -> Version:
        """Writes the version of a number, or reads the one that stands there."""
        version = Version(number=number, **dict(facts))
        return version if self._versions.create(number, encode_record(version)) else self.version(number)

    def _known(self, state: Event | None, number: int) -> Event:
        num_versions = 0 if state is None else state.num_versions
        if state is None or not 1 <= number <= num_versions:
            known = f"versions 1 to {num_versions}" if num_versions else "a registry without versions"
            raise UsageError(f"{self.url}: no version {number}; found {known}")
        return state

    def _event(
        self,
        state: Event | None,
        happening: Happening,
        version: int,
        aliases: Mapping[str, int],
        reasons: Sequence[str] = (),
        comparison: Comparison | None = None,
        retrain_key: str | None = None,
    ) -> Event:
        """The event that follows a state."""
        number, num_versions = (0, 0) if state is None else (state.number, state.num_versions)
        return Event(
            number=number + 1,
            happening=happening,
            version=version,
            aliases=dict(aliases),
            num_versions=max(num_versions, version),
            reasons=tuple(reasons),
            comparison=comparison,
            retrain_key=retrain_key,
            at=self._now(),
            nonce=secrets.token_hex(8),
        )

    def _append(self, event: Event) -> bool:
        """Writes an event; False if another one has its number."""
        return self._events.create(event.number, encode_record(event))

    def _append_on_newest(self, event_on: Callable[[Event | None], Event]) -> Event:
        """Writes the event that follows the newest state, and if somebody was faster, the one that follows theirs."""
        while True:
            event = event_on(self.state())
            if self._append(event):
                return event

    def _read(self, numbered: NumberedObjects, number: int) -> bytes:
        try:
            return numbered.read(number)
        except ObjectNotFound as error:
            raise CorruptObject(f"{numbered.url(number)}: missing, though later records name it; restore it") from error

    def _many(self, read: Callable[[int], RecordT], last: int) -> list[RecordT]:
        with ThreadPoolExecutor(_NUM_READ_AT_ONCE, thread_name_prefix="registry") as pool:
            return list(pool.map(read, range(1, last + 1)))


def _plan_key(retrain_key: str) -> str:
    return f"plans/{retrain_key}.json"


def _promoted(aliases: Mapping[str, int], number: int) -> dict[str, int]:
    """The aliases once a version is the champion; it then isn't the challenger."""
    return {**{name: held for name, held in aliases.items() if (name, held) != (CHALLENGER, number)}, CHAMPION: number}
