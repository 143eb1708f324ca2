"""Read YAML (and JSON, which is a part of it), and refuse a key that stands twice.

A file of flags is read as it is written: every value is its text, which the flag converts as it
converts a word of the command line. YAML's own reading would make 10 of `012`, 90 of `1:30` and
False of `off`, whatever the flag is.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import yaml

# Half of a surrogate pair, in which Python holds a byte of a path that is no UTF-8.
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
KEPT = {"null": "tag:yaml.org,2002:null", "Null": "tag:yaml.org,2002:null",
        "NULL": "tag:yaml.org,2002:null", "<<": "tag:yaml.org,2002:merge"}  # fmt: skip


def _value_loader(text: str) -> Any:
    """Make a loader of YAML's own values: the one in C, which is ten times as fast, where it can.

    It takes no half of a surrogate pair.
    """
    in_c = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.SafeLoader(text) if SURROGATE.search(text) else in_c(text)


class _TextLoader(yaml.SafeLoader):
    """Take every plain word for its text, but `null` and the key `<<`, which merges mappings."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> str:
        if kind is yaml.ScalarNode and implicit[0]:
            return KEPT.get(value, self.DEFAULT_SCALAR_TAG)
        return str(super().resolve(kind, value, (False, False)))


def read_texts(text: str) -> Any:
    """Return the content of a YAML text, its values as they are written; `null` is None.

    Raises:
        ValueError: it is no YAML, or has a key twice; the message names key and lines.
    """
    return _read(_TextLoader, text)


def read_values(text: str) -> Any:
    """Return the content of a YAML text, its values as YAML understands them.

    Raises:
        ValueError: it is no YAML, or has a key twice; the message names key and lines.
    """
    return _read(_value_loader, text)


def read_entries(text: str) -> list[tuple[str, Any, int]] | None:
    """Return keys and values of the mapping that a YAML text holds, with the line of each.

    Unlike `read_values` it returns a key at the top twice where it stands there twice. The result
    is None for a text that is no YAML, or another thing than a mapping.

    Raises:
        ValueError: a mapping below has a key twice.
    """
    try:
        loader = _value_loader(text)
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            return None
        found = []
        for key, value in node.value:
            _refuse_repeated(value)
            content = loader.construct_document(value)
            found.append((str(key.value), content, key.start_mark.line + 1))
        return found
    except (yaml.YAMLError, RecursionError):
        return None


def _read(make_loader: Callable[[str], Any], text: str) -> Any:
    try:
        loader = make_loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _refuse_repeated(node)
        return loader.construct_document(node)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from None


def _refuse_repeated(node: yaml.Node) -> None:
    """Refuse a key that a mapping has twice; PyYAML takes the last one without a word."""
    for mapping in _mappings(node, set()):
        lines: dict[str, int] = {}
        for key, _ in mapping.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                raise ValueError(
                    f"{key.value!r} stands there twice, on lines {lines[key.value]} and {line}; "
                    "keep one of them"
                )
            lines[key.value] = line


def _mappings(node: yaml.Node, seen: set[int]) -> Iterator[yaml.MappingNode]:
    """Yield the mappings in a document, each once although aliases may name it again."""
    if id(node) in seen or isinstance(node, yaml.ScalarNode):
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        yield node
        parts = [part for pair in node.value for part in pair]
    else:
        parts = node.value
    for part in parts:
        yield from _mappings(part, seen)
