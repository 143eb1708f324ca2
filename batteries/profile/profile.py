"""Find all that is computed of one activation."""

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from batteries.profile.cost import ROUNDS, cost
from batteries.profile.found import Curve, GradientCheck, Moments, Profile, Shape, TailCurves
from batteries.profile.health import gradient_check, health, in_company
from batteries.profile.mixing import mixing
from batteries.profile.moments import drawn_moments, moments
from batteries.profile.shape import shape
from batteries.profile.subject import Function, Subject
from batteries.profile.tails import tail_curves
from benchmarks.accuracy import value_and_slope
from benchmarks.arms import Arm
from cli.parser import converted
from cli.vision import VisionConfig
from training import custom_activation
from utils import UserError

CURVE_REACH, CURVE_POINTS = 6.0, 481
WIDTH = 1e-4  # of the differences of slopes that are drawn
NO_CHECK = GradientCheck(False, "the activation does not compute in float64", False, ())


def arm_of(flags: Mapping[str, Any]) -> Arm:
    """Return the activation that the flags of a program name.

    Args:
        flags: those of the network that tell the activation, as texts or values.

    Raises:
        UserError: they contradict each other, or the activation is not fit to train with.
    """
    model = converted(VisionConfig, flags).model
    model.check()
    custom_activation.loaded(model)  # which says what is wrong with the user's own
    arm = Arm.of(model.activation, model.sigma, model.activation_args)
    return replace(arm, learned=model.learn_sigma, expanded=model.expand_gate)


def profile_of(arm: Arm) -> Profile:
    """Compute the profile of an activation, without its cost.

    Raises:
        UserError: it cannot be made, or does not compute in float64 at all.
    """
    start = time.process_time()
    try:
        subject = Subject.of(arm)
        module = subject.module()
        found = mixing(subject)
    except Exception as error:  # the user's code may raise anything
        text = " ".join(str(error).split())
        raise UserError(
            f"--activation {arm.activation}: it fails in float64 ({text}); let it take any type of "
            "floating point"
        ) from None
    elementwise = found.is_elementwise
    of_function = shape(subject) if elementwise and not found.is_single else None
    in_moments = moments(subject) if elementwise else drawn_moments(subject)
    result = Profile(
        label=subject.label,
        description=" ".join(str(module).split()),
        trained=sum(each.numel() for each in module.parameters() if each.requires_grad),
        mixing=found,
        health=health(subject, elementwise),
        gradient=gradient_check(subject, of_function) if not found.is_single else NO_CHECK,
        shape=of_function,
        moments=in_moments if _are_finite(in_moments) else None,
        curve=curve(subject, elementwise, of_function),
        tails=_tails(subject, of_function),
        cost=None,
        seconds=0.0,
    )
    return replace(result, seconds=round(time.process_time() - start, 1))


def with_cost(found: Profile, arm: Arm, device: torch.device, rounds: int = ROUNDS) -> Profile:
    """Return a profile with what the activation costs on a device, measured now."""
    return replace(found, cost=cost(arm, device, rounds))


def _are_finite(found: Moments) -> bool:
    return all(map(math.isfinite, (found.mean, found.second, found.slope_second)))


def curve(subject: Subject, elementwise: bool, of_function: Shape | None) -> Curve:
    """Return what is drawn of an activation from −6 to 6."""
    module = subject.module()
    function: Function = subject.function(module)
    if not elementwise:
        function = in_company(subject, module)
    x = torch.linspace(-CURVE_REACH, CURVE_REACH, CURVE_POINTS, dtype=torch.float64)
    y, slopes = value_and_slope(function, x.clone())
    beside = [value_and_slope(function, x + sign * WIDTH / 2)[1] for sign in (-1, 1)]
    second = (beside[1] - beside[0]) / WIDTH
    for at in of_function.breaks if of_function else ():
        near = (x - at).abs() <= WIDTH
        second[near] = math.nan
        if of_function and of_function.smoothness in (-1, 0):
            slopes = slopes.where(~near, math.nan)  # the line is not drawn across the jump
    return Curve(
        tuple(round(each, 6) for each in x.tolist()),
        _numbers(y),
        _numbers(slopes),
        _numbers(second),
    )


def _numbers(values: Tensor) -> tuple[float | None, ...]:
    return tuple(
        float(f"{value:.6g}") if math.isfinite(value) else None
        for value in values.detach().tolist()
    )


def _tails(subject: Subject, of_function: Shape | None) -> TailCurves:
    if of_function is None:
        return TailCurves((), (), ())
    return tail_curves(subject.exact(), of_function.left, of_function.right)
