"""YAML files of the controller: strict reading, and the merge of an override over a base.

The rules of the merge: maps merge key by key; a key whose override is ``null`` is deleted; lists whose items
all carry ``id`` (or else all carry ``type``) merge item by item under that key, new items last; every other
value, lists included, is replaced.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import yaml

IDENTITY_KEYS = ("id", "type")


class ConfigError(ValueError):
    """A configuration that must not be used; each line of the message names file, key and remedy."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that appears twice: YAML would silently keep the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is not text; put it in quotes", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} appears twice; remove one", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_mapping(path: Path, *, may_be_absent: bool = False) -> dict[str, Any]:
    """Return the YAML mapping in a file; an empty file is an empty mapping. Raises ConfigError.

    Messages never quote the content, which may hold a password.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _StrictLoader)  # noqa: S506 (a SafeLoader)
    except FileNotFoundError:
        if may_be_absent:
            return {}
        raise ConfigError([f"{path}: the file does not exist; deploy the station's configuration"]) from None
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise ConfigError([f"{path}: is not UTF-8 text"]) from None
    except yaml.MarkedYAMLError as error:
        place = f"line {error.problem_mark.line + 1}" if error.problem_mark else "somewhere"
        raise ConfigError([f"{path}: {place}: not valid YAML: {error.problem}"]) from None
    except yaml.YAMLError as error:
        raise ConfigError([f"{path}: not valid YAML: {type(error).__name__}"]) from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError([f"{path}: must be a mapping of sections, not {type(content).__name__}"])
    return content


def merge(base: Any, override: Any) -> Any:
    """Return ``override`` laid over ``base``; neither is changed."""
    if isinstance(override, dict):
        under = base if isinstance(base, dict) else {}
        result = {key: value for key, value in under.items() if key not in override}
        merged = {key: merge(under.get(key), value) for key, value in override.items() if value is not None}
        # Keep the order of the base, so that two equal configurations also read alike.
        return {key: (result | merged)[key] for key in [*under, *override] if key in result or key in merged}
    if isinstance(override, list):
        key = list_key(base, override) if isinstance(base, list) else None
        if key is not None:
            return _merge_items(base, override, key)
        return [merge(None, item) for item in override]
    return override


def list_key(*lists: list[Any]) -> str | None:
    """Return the key under which items of these lists are the same item, None when there is none."""
    items = [item for each in lists for item in each]
    for key in IDENTITY_KEYS:
        if items and all(isinstance(item, dict) and isinstance(item.get(key), str) for item in items):
            return key
    return None


def _merge_items(base: list[Any], override: list[Any], key: str) -> list[Any]:
    over = {item[key]: item for item in override}
    known = {item[key] for item in base}
    result = [merge(item, over[item[key]]) if item[key] in over else item for item in base]
    return result + [merge(None, item) for item in override if item[key] not in known]


def locate(document: Any, steps: Sequence[str | int], merged: Any) -> bool:
    """Tell whether ``document`` itself says something about the place ``steps`` of ``merged``."""
    for step in steps:
        if isinstance(merged, list) and isinstance(step, int) and step < len(merged):
            item = merged[step]
            key = list_key(merged)
            if not isinstance(document, list):
                return False
            if key is not None:
                found = [
                    other for other in document if isinstance(other, dict) and other.get(key) == item[key]
                ]
                if not found:
                    return False
                document = found[0]
            elif step < len(document):
                document = document[step]
            else:
                return False
            merged = item
        else:
            if not isinstance(document, dict) or step not in document:
                return False
            document = document[step]
            merged = merged.get(step) if isinstance(merged, dict) else None
    return True
