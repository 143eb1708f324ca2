"""Continue texts by a language model: choose token after token, with what it has computed kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor, nn

SMALLEST_TEMPERATURE = 1e-6  # logits divided by less would not be finite; it is taken for 0


class Past:
    """Keep the keys and values of one attention, (B, heads, T, width), for the tokens to come."""

    def __init__(self) -> None:
        self.keys = self.values = torch.empty(0)
        self.length = 0

    def extended(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return all keys and values, these ones last, and keep them."""
        if self.length:
            keys = torch.cat([self.keys, keys], dim=2)
            values = torch.cat([self.values, values], dim=2)
        self.keys, self.values, self.length = keys, values, keys.shape[2]
        return keys, values


class Generating(Protocol):
    """Describe a network that can go on from what it has computed."""

    def after(self, past: Any, ids: Tensor) -> tuple[Tensor, Any]:
        """Return logits (B, T, vocabulary) of ids (B, T) that follow `past`, and the new past.

        The past before the first id is None; so it is returned by networks that keep nothing.
        """
        ...


@dataclass(frozen=True)
class Choice:
    """Say how a token is drawn from logits; the steps and their order are transformers'.

    Attributes:
        temperature: divides the logits; 0 takes the most likely token.
        top_k: only so many of the most likely tokens are drawn, and those as likely as the last.
        top_p: only the most likely tokens are drawn, as few as have this share of probability.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0

    def limited(self, logits: Tensor) -> Tensor:
        """Return the logits (B, vocabulary) to draw from: -inf for tokens that are not drawn."""
        logits = logits / self.temperature
        if self.top_k is not None:
            smallest = logits.topk(min(self.top_k, logits.shape[-1])).values[:, -1:]
            logits = logits.masked_fill(logits < smallest, -torch.inf)
        if self.top_p < 1:
            rising, order = logits.sort(dim=-1)
            left_out = rising.softmax(-1).cumsum(-1) <= 1 - self.top_p
            left_out[:, -1] = False
            logits = logits.masked_fill(left_out.scatter(1, order, left_out), -torch.inf)
        return logits

    def drawn(self, logits: Tensor, generator: torch.Generator) -> Tensor:
        """Return a token (B, 1) for each row of logits (B, vocabulary)."""
        if self.temperature < SMALLEST_TEMPERATURE:
            return logits.argmax(-1, keepdim=True)
        return torch.multinomial(self.limited(logits).softmax(-1), 1, generator=generator)


@torch.no_grad()
def next_tokens(
    model: Generating, longest: int, ids: Tensor, choose: Callable[[Tensor], Tensor]
) -> Iterator[Tensor]:
    """Yield the tokens (B, 1) that follow each row of `ids` (B, n), without end.

    As long as all of them fit into `longest` tokens, each is computed alone. Beyond, every token
    moves to another position with each one that is added, so the last `longest` are computed anew.

    Args:
        model: in evaluation mode.
        longest: the tokens that it can be given.
        ids: int64, n >= 1.
        choose: returns the tokens (B, 1) for logits (B, vocabulary), fp32 on the CPU.
    """
    past, new = None, ids[:, -longest:]
    while True:
        logits, past = model.after(past, new)
        token = choose(logits[:, -1].float().cpu()).to(ids.device)
        yield token
        ids = torch.cat([ids, token], dim=1)
        new = token
        if past is None or ids.shape[1] > longest:
            past, new = None, ids[:, -longest:]


def sampled(
    model: nn.Module,
    longest: int,
    ids: Tensor,
    count: int,
    generator: torch.Generator,
    choice: Choice,
) -> Tensor:
    """Do what `GPT2.generate` does, for any network with `Generating.after`."""
    was_training = model.training
    model.eval()
    network: Any = model
    try:
        tokens = next_tokens(network, longest, ids, lambda x: choice.drawn(x, generator))
        return torch.cat([ids, *islice(tokens, count)], dim=1)
    finally:
        model.train(was_training)
