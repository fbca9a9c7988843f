"""Decides, call by call, what goes wrong: counts, draws, and the steps of the script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from infra.cloud.core.faults import (
    EXPIRED_ITERATORS_MAX,
    SECONDS_MAX,
    Delay,
    Effect,
    ExpireIterator,
    Facts,
    FailRecords,
    FaultPlan,
    LandLate,
    Refusal,
    Rule,
    ShortPage,
    draw,
)

_STRIKES: Final = 0
_LASTS: Final = 1


@dataclass(slots=True)
class Verdict:
    """What happens to one call; `record_refusals` by position, `outcome` None where the call is answered as usual."""

    delay_seconds: float = 0.0
    delay_after_seconds: float = 0.0
    record_refusals: dict[int, Refusal] = field(default_factory=dict)
    records_max: int | None = None
    outcome: Effect | None = None
    late_seconds: float = 0.0


@dataclass(slots=True)
class _Tally:
    """How often a rule matched and struck."""

    rule: Rule
    number: int
    matches: int = 0
    hits: int = 0


class FaultDesk:
    """One run of a plan that began at `started` (seconds of the caller's monotonic clock).

    Every rule counts its own matches and draws by that count, so the same plan and the same sequence of calls give the
    same faults. All rules are asked for every call: delays add up, refused records come together, and of what
    replaces the answer the first rule in the file wins; a rule that did not win has no hit.
    """

    def __init__(self, plan: FaultPlan, started: float) -> None:
        self.plan = plan
        self.started = started
        self.is_idle = not plan.rules and not plan.steps
        self.asks_for_places = any(each.where.asks_for_places for each in (*plan.rules, *plan.steps))
        self._rules = [_Tally(rule, number) for number, rule in enumerate(plan.rules)]
        self._steps = [_Tally(rule, len(plan.rules) + number) for number, rule in enumerate(plan.steps)]
        self._step = 0
        self._expired: dict[str, None] = {}

    def decide(self, facts: Facts, now: float) -> Verdict:
        """Decide one call; counts it."""
        verdict = Verdict()
        if facts.iterator and facts.iterator in self._expired:
            verdict.outcome = ExpireIterator()
        elapsed = now - self.started
        step = self._steps[self._step] if self._step < len(self._steps) else None
        if step is not None:
            self._ask(step, facts, elapsed, verdict, is_step=True)
            if step.hits >= (step.rule.when.hits_max or 1):
                self._step += 1
        for tally in self._rules:
            self._ask(tally, facts, elapsed, verdict, is_step=False)
        if isinstance(verdict.outcome, ExpireIterator) and facts.iterator:
            self._expire(facts.iterator)
        return verdict

    def _ask(self, tally: _Tally, facts: Facts, elapsed: float, verdict: Verdict, *, is_step: bool) -> None:
        when = tally.rule.when
        if not when.after_seconds <= elapsed < when.until_seconds or not tally.rule.where.takes_call(facts):
            return
        if isinstance(tally.rule.effect, FailRecords):
            for position, record in enumerate(facts.records):
                if tally.rule.where.takes_record(record) and self._strikes(tally, is_step=is_step):
                    tally.hits += position not in verdict.record_refusals
                    verdict.record_refusals.setdefault(position, tally.rule.effect.refusal)
        elif self._strikes(tally, is_step=is_step):
            tally.hits += self._apply(tally, verdict)

    def _strikes(self, tally: _Tally, *, is_step: bool) -> bool:
        """Count a match and say whether it is struck."""
        tally.matches += 1
        when, count = tally.rule.when, tally.matches
        if when.hits_max is not None and tally.hits >= when.hits_max:
            return False
        if when.nth is not None and (count < when.nth if is_step else count != when.nth):
            return False
        if when.every is not None and count % when.every:
            return False
        return when.probability >= 1 or draw(self.plan.seed, tally.number, count, _STRIKES) < when.probability

    def _apply(self, tally: _Tally, verdict: Verdict) -> bool:
        """Write the effect into the verdict, unless another one was first."""
        effect = tally.rule.effect
        chance = draw(self.plan.seed, tally.number, tally.matches, _LASTS)
        if isinstance(effect, Delay):
            seconds = effect.duration.pick(chance)
            if effect.after_landing:
                verdict.delay_after_seconds = min(SECONDS_MAX, verdict.delay_after_seconds + seconds)
            else:
                verdict.delay_seconds = min(SECONDS_MAX, verdict.delay_seconds + seconds)
            return True
        if isinstance(effect, ShortPage):
            verdict.records_max = min(effect.records_max, verdict.records_max or effect.records_max)
            return True
        if verdict.outcome is not None:
            return False
        verdict.outcome = effect
        if isinstance(effect, LandLate):
            verdict.late_seconds = effect.duration.pick(chance)
        return True

    def _expire(self, iterator: str) -> None:
        self._expired[iterator] = None
        if len(self._expired) > EXPIRED_ITERATORS_MAX:
            del self._expired[next(iter(self._expired))]

    def counts(self) -> dict[str, Any]:
        """How often each rule and step matched and struck, as JSON values."""
        return {"rules": _shown(self._rules), "steps": _shown(self._steps), "steps_done": self._step}


def _shown(tallies: Sequence[_Tally]) -> list[dict[str, Any]]:
    return [
        {"name": each.rule.name, "effect": each.rule.kind, "matches": each.matches, "hits": each.hits}
        for each in tallies
    ]
