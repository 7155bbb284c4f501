"""`Plan`: the changes of one row in order, with what the model says after each, in words."""

from __future__ import annotations

from dataclasses import dataclass

from cfexplain.foundation.in_words import probability

__all__ = ["Plan", "Step"]


@dataclass(frozen=True)
class Step:
    """One change.

    Attributes
    ----------
    column : str
    before, after : str
        Cells in words.
    said : float
        The model's probability of the target, or its value, once this change and those before it are made.
    """

    column: str
    before: str
    after: str
    said: float


@dataclass(frozen=True)
class Plan:
    """What to change first, what next, and what the model says after each.

    Attributes
    ----------
    steps : tuple of Step
    target : str
    start : float
        What the model says before anything is changed.
    is_value : bool
        A regressor's value, and not a probability.

    Examples
    --------
    >>> print(Plan((Step("income", "30", "42", 0.45), Step("debt", "20", "11", 0.81)), "yes", 0.2))
    The probability of yes is 0.20.
    1. income 30 → 42: 0.45
    2. debt 20 → 11: 0.81
    """

    steps: tuple[Step, ...]
    target: str
    start: float
    is_value: bool = False

    def __len__(self) -> int:
        return len(self.steps)

    def __str__(self) -> str:
        if self.is_value:
            what = f"The value is {self.start:.4g} (target {self.target})."
            said = [f"{step.said:.4g}" for step in self.steps]
        else:
            what = f"The probability of {self.target} is {probability(self.start)}."
            said = [probability(step.said) for step in self.steps]
        return "\n".join([what, *(f"{i}. {step.column} {step.before} → {step.after}: {words}"
                                  for i, (step, words) in enumerate(zip(self.steps, said, strict=True), 1))])
