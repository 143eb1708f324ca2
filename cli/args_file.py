"""Write args.txt: the flags, what the automatic ones came to, and the machine, as YAML."""

from typing import Any

import yaml

from cli.config import Config


class _Dumper(yaml.SafeDumper):
    """Write every list, of a hundred classes' sizes for example, in one line."""


def _in_one_line(dumper: yaml.SafeDumper, values: list[Any]) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=True)


_Dumper.add_representer(list, _in_one_line)


def args_text(config: Config, resolved: dict[str, Any], environment: dict[str, Any]) -> str:
    """Return the text of args.txt: the flags as given, under them `resolved` and `environment`.

    `--config` reads it back, and takes the flags alone: a resolved value would keep, say, the
    initial weights from following another `--seed`.

    Args:
        config: the run's.
        resolved: what automatic and derived flags came to.
        environment: what the numbers depend on besides the flags.
    """
    content = config.values() | {"resolved": resolved, "environment": environment}
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**9)


def list_item(content: dict[str, Any]) -> str:
    """Return an item of a YAML list, in one line."""
    return "- " + yaml.safe_dump(content, default_flow_style=True, width=10**9).strip()
