"""Show a network of this project to lm_eval: log-likelihoods of texts, and generation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import groupby, islice
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import nn
from torch.nn import functional as F

from models.generation import Choice, next_tokens
from pipelines.text.tokenizer import Tokenizer
from tasks.language import continuation
from utils import Progress, may_draw, mixed_seed

Ids = list[int]

NEW_TOKENS = 256  # of a generation whose task does not say, as for lm_eval's own models


class NetworkLM(TemplateLM):  # type: ignore[misc] # lm_eval's classes count as Any
    """Answer lm_eval's requests by a network and its tokenizer.

    A context and its continuation are split as lm_eval does: the tokens of both together, behind
    those of the context alone. An empty context is end-of-text. What is too long loses the
    beginning of its context.

    Args:
        network: maps ids (B, T <= longest) to logits, in evaluation mode.
        vocabulary: the tokenizer that it was trained with.
        longest: its context in tokens.
        batch_size: texts that it is given at once.
        precision: makes the context that it runs in.
    """

    def __init__(
        self,
        network: nn.Module,
        vocabulary: Tokenizer,
        longest: int,
        batch_size: int,
        precision: Callable[[], AbstractContextManager[Any]],
    ):
        super().__init__()
        self.network, self.vocabulary, self.longest = network, vocabulary, longest
        self.batch_size, self.precision = batch_size, precision
        self._device = next(network.parameters()).device

    @property
    def eot_token_id(self) -> int:
        return self.vocabulary.end_of_text

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> Ids:
        """Return the ids of a text, as texts for training are encoded."""
        return self.vocabulary.encode(string)

    # --- log-likelihoods ---

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], Ids, Ids]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        return self.scores([(context, following) for _, context, following in requests])

    def loglikelihood(
        self, requests: list[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Return the log-likelihood of each continuation, and if each of its tokens is greedy."""
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm or not may_draw())

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-likelihood of each text whole, in windows that do not overlap."""
        of_texts = []
        for request in requests:
            ids = self.tok_encode(request.args[0])
            windows = get_rolling_token_windows(ids, self.eot_token_id, self.longest, 1)
            of_texts.append([make_disjoint_window(window) for window in windows])
        found = iter(self.scores([window for windows in of_texts for window in windows]))
        return [sum(next(found)[0] for _ in windows) for windows in of_texts]

    def scores(self, pairs: Sequence[tuple[Ids, Ids]]) -> list[tuple[float, bool]]:
        """Return for each context and continuation the log-likelihood of the latter.

        With it, whether each of its tokens is the most likely one.
        """
        pieces = [
            (number, *piece)
            for number, (context, following) in enumerate(pairs)
            for piece in self._pieces(context, following)
        ]
        pieces.sort(key=lambda piece: -len(piece[1]))  # the longest first: memory shows at once
        nats, greedy = [0.0] * len(pairs), [True] * len(pairs)
        progress = Progress("Log-likelihoods", len(pieces))
        for start in range(0, len(pieces), self.batch_size):
            batch = pieces[start : start + self.batch_size]
            results = self._scored([inputs for _, inputs, _ in batch], [t for *_, t in batch])
            for (number, *_), (each, is_greedy) in zip(batch, results, strict=True):
                nats[number] += each
                greedy[number] &= is_greedy
                progress.advance()
        progress.close()
        return [(-each, is_greedy) for each, is_greedy in zip(nats, greedy, strict=True)]

    def _pieces(self, context: Ids, following: Ids) -> list[tuple[Ids, Ids]]:
        """Return inputs and the targets that end them: one piece, unless the text is too long.

        A text of white space has no tokens of its own where lm_eval gives its spaces to what
        follows.
        """
        context, pieces = context or [self.eot_token_id], []
        for start in range(0, len(following), self.longest):
            targets = following[start : start + self.longest]
            before = [*context, *following[:start]][len(targets) - self.longest - 1 :]
            pieces.append(([*before, *targets[:-1]], targets))
        return pieces

    @torch.no_grad()
    def _scored(self, inputs: list[Ids], targets: list[Ids]) -> list[tuple[float, bool]]:
        """Return the nats of the targets, which end at the inputs' ends, and if they are greedy."""
        ids = torch.zeros(len(inputs), max(map(len, inputs)), dtype=torch.int64)
        for row, each in zip(ids, inputs, strict=True):
            row[: len(each)] = torch.tensor(each)  # what stands behind is seen by none of these
        with self.precision():
            logits = self.network(ids.to(self._device))
        results = []
        for row, each, wanted in zip(logits, inputs, targets, strict=True):
            chosen = row[len(each) - len(wanted) : len(each)].float()
            ends = torch.tensor(wanted, device=self._device)
            nats = F.cross_entropy(chosen, ends, reduction="none").cpu().double().sum()
            results.append((nats.item(), bool((chosen.argmax(-1) == ends).all())))
        return results

    # --- generation ---

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Return what follows each context, up to the first of its task's stops."""
        contexts = [self.tok_encode(request.args[0]) for request in requests]
        order = sorted(
            range(len(requests)), key=lambda n: (str(requests[n].args[1]), len(contexts[n]), n)
        )
        texts = [""] * len(requests)
        progress = Progress("Generations", len(requests))
        # Contexts of one length make a batch: the network knows no padding.
        for (_, _, one), group in groupby(order, lambda n: self._kind(requests[n], contexts[n], n)):
            members = list(group)
            for start in range(0, len(members), self.batch_size):
                batch = members[start : start + self.batch_size]
                seed = mixed_seed("lm_eval", one if one is not None else 0)
                rows = self._continued([contexts[n] for n in batch], requests[batch[0]], seed)
                for number, text in zip(batch, rows, strict=True):
                    texts[number] = text
                    progress.advance()
        progress.close()
        return texts

    @staticmethod
    def _kind(request: Any, context: Ids, number: int) -> tuple[str, int, int | None]:
        """Return what requests of one batch share; one that is drawn has a batch of its own."""
        return str(request.args[1]), len(context), number if _choice(request.args[1]) else None

    def _continued(self, contexts: list[Ids], request: Any, seed: int) -> list[str]:
        options = request.args[1]
        count = int(options.get("max_gen_toks", NEW_TOKENS))
        room = self.longest - count  # for the context, as lm_eval's own models have it
        cut = [(each or [self.eot_token_id])[-(room if room > 0 else self.longest) :]
               for each in contexts]  # fmt: skip
        choice = _choice(options) or Choice(temperature=0)
        generator = torch.Generator().manual_seed(seed)
        drawn: list[Ids] = [[] for _ in cut]
        texts: list[str | None] = [None] * len(cut)
        network: Any = self.network
        tokens = next_tokens(
            network, self.longest, torch.tensor(cut, device=self._device),
            lambda logits: choice.drawn(logits, generator),
        )  # fmt: skip
        with self.precision():
            for token in islice(tokens, count):
                for n, (number,) in enumerate(token.tolist()):
                    if texts[n] is None:
                        texts[n] = self._ended(contexts[n], drawn[n], number, options)
                if None not in texts:
                    break
        return [
            self._text(contexts[n], drawn[n]) if text is None else text
            for n, text in enumerate(texts)
        ]

    def _ended(self, context: Ids, drawn: Ids, token: int, options: dict[str, Any]) -> str | None:
        """Add a token to those drawn, and return the text if it ends here."""
        if token == self.eot_token_id:
            return self._text(context, drawn)
        drawn.append(token)
        text, until = self._text(context, drawn), options.get("until") or []
        stops = [until] if isinstance(until, str) else until
        places = [text.find(stop) for stop in stops if stop and stop in text]
        return text[: min(places)] if places else None

    def _text(self, context: Ids, drawn: Ids) -> str:
        known = [token for token in drawn if token < self.vocabulary.vocab_size]
        return continuation(self.vocabulary, context, known)


def _choice(options: dict[str, Any]) -> Choice | None:
    """Return how a task wants tokens to be drawn; None for the most likely ones."""
    if not options.get("do_sample") or not options.get("temperature", 1.0):
        return None
    return Choice(
        float(options.get("temperature", 1.0)),
        options.get("top_k") or None,
        options.get("top_p", 1.0),
    )
