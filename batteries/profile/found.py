"""Hold what was found of an activation, as data: texts and pictures are made from it alone."""

from dataclasses import dataclass
from pathlib import Path

from batteries import json_files

FILE = "profile.json"
# The kinds of tails.
LINE, POWER, BETWEEN, SLOW, OVERFLOW, SWINGS, UNDEFINED = (
    "line", "power", "between", "slow", "overflow", "swings", "undefined",
)  # fmt: skip


# --- numerical health ---


@dataclass(frozen=True)
class Interval:
    """Hold two ends; in most uses these are inputs."""

    low: float
    high: float


@dataclass(frozen=True)
class NotFinite:
    """Count the results that are infinite, or no numbers.

    Attributes:
        count: of all inputs that were tried.
        avoidable: those among them whose exact result lies within the format's range.
        inputs: where they are, as the first intervals from the left.
        more: how many further intervals there are.
    """

    count: int
    avoidable: int
    inputs: tuple[Interval, ...]
    more: int


@dataclass(frozen=True)
class LargestError:
    """Hold the largest errors against float64, of results that are finite.

    Attributes:
        ulp: in distances between neighbouring numbers of the format, at the exact result.
        ulp_at: the input.
        absolute: absolute, and relative where the exact result is above 1.
        absolute_at: the input.
    """

    ulp: float
    ulp_at: float
    absolute: float
    absolute_at: float


@dataclass(frozen=True)
class FormatHealth:
    """Hold how the activation computes in one format of numbers.

    Attributes:
        name: "fp32", "fp16" or "bf16".
        inputs: how many numbers were tried.
        sample: which they are.
        failure: why it does not compute in this format at all; what follows is then None.
        values: results that are not finite.
        slopes: gradients that are not finite, where the output's gradient is 1.
        value_error, slope_error: against float64.
    """

    name: str
    inputs: int
    sample: str
    failure: str = ""
    values: NotFinite | None = None
    slopes: NotFinite | None = None
    value_error: LargestError | None = None
    slope_error: LargestError | None = None


@dataclass(frozen=True)
class Kink:
    """Hold a place where the slope jumps, with the slope that backward takes there."""

    at: float
    left: float
    right: float
    taken: float

    @property
    def is_between(self) -> bool:
        """Return whether backward takes a slope from the left one to the right one."""
        room = 1e-6 * (1 + abs(self.left) + abs(self.right))
        low, high = sorted((self.left, self.right))
        return low - room <= self.taken <= high + room


@dataclass(frozen=True)
class GradientCheck:
    """Hold what torch.autograd.gradcheck says in float64.

    Attributes:
        passed: it agrees with differences away from kinks, in the trained numbers too.
        reason: why not.
        twice: a second derivative exists, and agrees too.
        kinks: where there is no derivative.
    """

    passed: bool
    reason: str
    twice: bool
    kinks: tuple[Kink, ...]


# --- properties ---


@dataclass(frozen=True)
class Extreme:
    """Hold the largest or the smallest value.

    Attributes:
        value: None where there is none: it is unbounded, or not known.
        at: the input; None where the value is only tended to, or unbounded.
        side: the tail that tends to it or is unbounded, "left" or "right"; "" where `at` is known.
    """

    value: float | None
    at: float | None
    side: str


@dataclass(frozen=True)
class Tail:
    """Hold what f does for x to minus infinity (left) or to infinity (right).

    Attributes:
        kind: LINE: f(x) tends to slope·x + offset. BETWEEN: f(x) − slope·x stays between `low` and
            `high` and tends to nothing. POWER: f grows like sign·|x|^power. SLOW: it grows without
            bound, more slowly than any line. OVERFLOW: it leaves the range of float64 at `reached`.
            SWINGS: it swings more and more. UNDEFINED: it is no number from `reached` on.
        slope, offset: of the line.
        order, coefficient: f(x) − slope·x − offset is about coefficient·|x|^−order. None where
            it falls faster than every power that can be seen.
        reached: the input beyond which the line is reached to within rounding.
        sign: of f far out, where it is unbounded.
    """

    kind: str
    slope: float = 0.0
    offset: float = 0.0
    order: float | None = None
    coefficient: float | None = None
    reached: float | None = None
    low: float = 0.0
    high: float = 0.0
    power: float = 0.0
    sign: int = 0


@dataclass(frozen=True)
class Intervals:
    """Hold the intervals of inputs that are nearest to 0, and how many there are beside them."""

    nearest: tuple[Interval, ...]
    more: int


@dataclass(frozen=True)
class Shape:
    """Hold the properties of a function of one number.

    Attributes:
        at_zero, slope_at_zero: f(0), and the slope that backward takes there.
        rises, falls: where it increases and decreases by more than rounding; it is monotone where
            one of them is empty.
        largest_fall: the most that it falls below a value that it had further left.
        bends_up, bends_down: where the slope increases and decreases; it is convex where nothing
            bends down.
        lowest, highest: of the values.
        slope_lowest, slope_highest: of the slopes.
        smoothness: continuous derivatives that were seen: -1 (f jumps), 0 (kinks), 1 (the second
            derivative jumps) or 2 (no jump up to there); None where it could not be looked at.
        breaks: where the first derivative that is not continuous jumps.
        left, right: the tails.
        undefined: where f is not finite in float64.
    """

    at_zero: float
    slope_at_zero: float
    rises: Intervals
    falls: Intervals
    largest_fall: float
    bends_up: Intervals
    bends_down: Intervals
    lowest: Extreme
    highest: Extreme
    slope_lowest: Extreme
    slope_highest: Extreme
    smoothness: int | None
    breaks: tuple[float, ...]
    left: Tail
    right: Tail
    undefined: Intervals


@dataclass(frozen=True)
class Moments:
    """Hold what becomes of z ~ N(0, 1).

    Attributes:
        mean: E[f(z)].
        second: E[f(z)²]; E[z²] is 1.
        slope_second: E[f′(z)²].
        draws: how many random numbers they are a mean of; 0 for an integral.
        second_error, slope_second_error: their standard errors; 0 for an integral.
    """

    mean: float
    second: float
    slope_second: float
    draws: int = 0
    second_error: float = 0.0
    slope_second_error: float = 0.0

    @property
    def gain(self) -> float | None:
        """Return the factor on weights of variance 1 / fan-in that keeps the second moment."""
        return self.second**-0.5 if 0 < self.second < float("inf") else None

    @property
    def backward_factor(self) -> float | None:
        """Return by what a layer with that gain multiplies a gradient's second moment."""
        return self.slope_second / self.second if self.gain else None


@dataclass(frozen=True)
class Mixing:
    """Say on what an output depends beside the input at its own place.

    Attributes:
        shape: of the inputs that were tried, (samples, ...).
        other_samples: it depends on other samples of the batch.
        other_channels: on other channels (the second dimension, the last one of three).
        other_places: on other places of the same channel.
        by_place: one number gives different results at different places.
        is_random: it gives different results for the same input while training.
        is_single: it computes in float32 or less, also for inputs in float64.
    """

    shape: tuple[int, ...]
    other_samples: bool
    other_channels: bool
    other_places: bool
    by_place: bool
    is_random: bool
    is_single: bool

    @property
    def is_elementwise(self) -> bool:
        """Return whether it is one function of one number."""
        mixes = self.other_samples or self.other_channels or self.other_places
        return not (mixes or self.by_place)


@dataclass(frozen=True)
class Curve:
    """Hold numbers to draw; None stands for what is not finite or does not exist.

    Where elements are mixed, all of a sample have the value x, and means count.
    """

    x: tuple[float, ...]
    f: tuple[float | None, ...]
    slope: tuple[float | None, ...]
    second: tuple[float | None, ...]


@dataclass(frozen=True)
class TailCurves:
    """Hold distances from the lines that f tends to, |f(x) − slope·x − offset|, at |x|.

    They are empty on a side without a line.
    """

    size: tuple[float, ...]
    left: tuple[float | None, ...]
    right: tuple[float | None, ...]


# --- cost ---


@dataclass(frozen=True)
class CostRow:
    """Hold what one activation costs: medians, with quartiles of the times.

    Attributes:
        step_ms: a training step.
        step_over_gelu: median of the ratios within the rounds.
        kept_bytes: what a step keeps for backward, beside parameters and batch.
        peak_bytes: the most that is allocated at once in a step.
        alone_us: the activation's forward and backward, by itself.
        alone_tensors: what it keeps for backward by itself, in tensors of its input's size.
    """

    label: str
    step_ms: float
    step_ms_q1: float
    step_ms_q3: float
    step_over_gelu: float
    kept_bytes: int
    peak_bytes: int
    alone_us: float
    alone_us_q1: float
    alone_us_q3: float
    alone_over_gelu: float
    alone_tensors: float


@dataclass(frozen=True)
class Cost:
    """Hold what activations cost, measured in turn on one machine.

    Attributes:
        network: what the steps train, in words.
        elements: numbers in the input of the activation alone, in fp32.
        rounds: how often each was measured.
        machine: hardware, threads, versions.
        rows: the usual activations and the one in question, which is the last.
    """

    network: str
    elements: int
    rounds: int
    machine: str
    rows: tuple[CostRow, ...]


# --- all of it ---


@dataclass(frozen=True)
class Profile:
    """Hold all that was found of an activation.

    Attributes:
        label: as reports name it.
        description: the text of its module.
        trained: how many trained numbers it has; they count at their initial values.
        mixing: on what its outputs depend.
        health: fp32, fp16 and bf16.
        gradient: gradcheck in float64.
        shape: None where it is no function of one number, or does not compute in float64.
        moments: None where they could not be computed.
        cost: None where it was not measured.
        seconds: of the processor, for all but the cost.
    """

    label: str
    description: str
    trained: int
    mixing: Mixing
    health: tuple[FormatHealth, ...]
    gradient: GradientCheck
    shape: Shape | None
    moments: Moments | None
    curve: Curve
    tails: TailCurves
    cost: Cost | None
    seconds: float


def save(profile: Profile, path: Path) -> None:
    """Write a profile as JSON."""
    json_files.save(profile, path)


def load(path: Path) -> Profile:
    """Return the profile in a file.

    Raises:
        UserError: it cannot be read, or is of another version.
    """
    return json_files.load(Profile, path, "profile", "compute it again")
