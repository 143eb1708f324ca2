"""Train and evaluate language models with any activation function, measured by perplexity.

    python language_main.py --activation ZiLU --dataset wikitext103

Flags are checked, and --help answers, before torch is loaded. cli/language.py declares the flags,
tasks/language.py says what is language's own, and the loop is in train_eval.py.
"""

import sys

from cli.errors import one_line_errors
from cli.language import LanguageConfig
from cli.parser import parse
from training.session import open_session


def main(argv: list[str] | None = None) -> int:
    """Train, or evaluate with --test_only; return the exit code."""
    command = parse(LanguageConfig, __doc__, argv)
    command.check()
    with open_session(command) as session:
        if session.trains and session.command.config.run.resume is None:
            # What is missing is told before torch is loaded.
            from pipelines.text.load import prepare_text  # loads NumPy

            prepare_text(session.command.config.data)
        from tasks.language import LanguageProgram  # loads torch

        return (LanguageProgram.train if session.trains else LanguageProgram.test)(session)


if __name__ == "__main__":
    with one_line_errors():
        code = main()
    sys.exit(code)
