"""Find the corpora of --also_test, of which the test splits are used."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

from cli.further_tests import Asked, asked_for
from cli.language import LanguageDataConfig
from pipelines.data import FurtherTest
from pipelines.text import tokenizer
from pipelines.text.load import load_text
from utils import UserError


def further_texts(config: LanguageDataConfig, **place: Any) -> dict[str, FurtherTest]:
    """Return the corpora that the configuration asks for, by name, with the run's tokens.

    Args:
        config: of the run's text.
        place: where and how windows are made, as for `load_text`.

    Raises:
        UserError: a text is missing or broken.
    """
    return {
        asked.name: _further_text(asked, config, place) for asked in asked_for(config.also_test)
    }


def _further_text(asked: Asked, config: LanguageDataConfig, place: dict[str, Any]) -> FurtherTest:
    if asked.place is not None and config.tokenizer == "gpt2":
        with suppress(UserError):  # where nothing is to be tokenised none is needed
            tokenizer.load(config.tokenizer, config.data_path)
    # The column of the run's own corpus says nothing of another one's. A share of documents that
    # is held out where there are no splits is one for all.
    own = replace(
        config, dataset=asked.kind, data_path=asked.place or config.data_path, also_test=None,
        text_column=None, pack="across",
    )  # fmt: skip
    try:
        data = load_text(own, **place)
    except UserError as error:
        raise UserError(f"--also_test {asked.name}: {error}") from None
    return FurtherTest({"": data.test}, [""], None, data.description)
