"""Rules for every Ansible module."""

from __future__ import annotations

import ast
import importlib.util
import runpy
import sys
from pathlib import Path
from typing import Any

import ansible.module_utils
import ansible.module_utils.basic
import yaml


class _CapturedError(Exception):
    """Carries what a module handed to AnsibleModule."""


def module_problems(path: Path) -> list[str]:
    """Every breach of one module in library/."""
    where = f"library/{path.name}"
    constants = _constants(path)
    documents: dict[str, Any] = {}
    problems: list[str] = []
    for name in ("DOCUMENTATION", "EXAMPLES", "RETURN"):
        if not constants.get(name, "").strip():
            problems.append(f"{where}: {name} is missing")
            continue
        try:
            documents[name] = yaml.safe_load(constants[name])
        except yaml.YAMLError as error:
            problems.append(f"{where}: {name} is no YAML: {error}")
    documentation = documents.get("DOCUMENTATION")
    if not isinstance(documentation, dict):
        return problems
    if documentation.get("module") != path.stem:
        problems.append(f"{where}: DOCUMENTATION is about {documentation.get('module')!r}, not {path.stem!r}")
    support = ((documentation.get("attributes") or {}).get("check_mode") or {}).get("support")
    if support not in {"full", "partial", "none"}:
        problems.append(f"{where}: attributes.check_mode.support must be stated")
    problems += [
        f"{where}: return value {name} has no description"
        for name, value in (documents.get("RETURN") or {}).items()
        if not (value or {}).get("description")
    ]
    options, missing = _with_fragments(path.parents[1] / "doc_fragments", documentation)
    problems += [f"{where}: there is no documentation fragment {name}" for name in missing]
    plugin = path.parents[1] / "action_plugins" / path.name
    if "def main(" not in path.read_text(encoding="utf-8"):
        return problems + _plugin_problems(where, plugin, set(options))
    spec, checks = _argument_spec(path)
    if (support in {"full", "partial"}) != checks:
        problems.append(f"{where}: check mode support is {support!r}, but supports_check_mode is {checks}")
    return problems + _option_problems(where, options, spec)


def documented_options(path: Path) -> dict[str, Any]:
    """The options that the documentation of a module in library/ has, with those of its fragments."""
    documentation = yaml.safe_load(_constants(path)["DOCUMENTATION"])
    return _with_fragments(path.parents[1] / "doc_fragments", documentation)[0]


def _with_fragments(directory: Path, documentation: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Add the options of the fragments as Ansible does; also the names of fragments that do not exist."""
    options, missing = dict(documentation.get("options") or {}), []
    for name in documentation.get("extends_documentation_fragment") or []:
        file, _, part = name.partition(".")
        path = directory / f"{file}.py"
        fragment = runpy.run_path(str(path))["ModuleDocFragment"] if path.is_file() else None
        text = getattr(fragment, part.upper() or "DOCUMENTATION", None)
        if text is None:
            missing.append(name)
            continue
        for option, value in yaml.safe_load(text)["options"].items():
            options[option] = value | options.get(option, {})
    return options, missing


def _constants(path: Path) -> dict[str, str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name) and isinstance(node.value.value, str)
    }


def _plugin_problems(where: str, plugin: Path, options: set[str]) -> list[str]:
    """A module that only documents an action plugin: the plugin must exist and know the same options."""
    if not plugin.is_file():
        return [f"{where}: has no main() and no action plugin of the same name"]
    for node in ast.walk(ast.parse(plugin.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == "_VALID_ARGS" for target in targets):
                value = node.value
                names = value.args[0] if isinstance(value, ast.Call) and value.args else None
                known = set(ast.literal_eval(names)) if names is not None else set()
                if known != options:
                    return [f"{where}: options {sorted(options)} differ from the plugin's {sorted(known)}"]
                return []
    return [f"{where}: the action plugin does not state _VALID_ARGS"]


def _argument_spec(path: Path) -> tuple[dict[str, Any], bool]:
    """Import the module and see what it gives to AnsibleModule."""
    source = str(path.parents[1] / "src")
    if source not in ansible.module_utils.__path__:
        ansible.module_utils.__path__.append(source)

    def capture(argument_spec: dict[str, Any], supports_check_mode: bool = False, **_other: Any) -> None:
        raise _CapturedError(argument_spec, supports_check_mode)

    name = f"_contract_{path.stem}"
    specification = importlib.util.spec_from_file_location(name, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    original = ansible.module_utils.basic.AnsibleModule
    ansible.module_utils.basic.AnsibleModule = capture
    try:
        specification.loader.exec_module(module)
        module.main()
    except _CapturedError as captured:
        spec, checks = captured.args
        return dict(spec), bool(checks)
    finally:
        ansible.module_utils.basic.AnsibleModule = original
        del sys.modules[name]
    raise AssertionError(f"{path.name}: main() does not create an AnsibleModule")


def _option_problems(
    where: str, options: dict[str, Any], spec: dict[str, Any], prefix: str = ""
) -> list[str]:
    problems = [
        f"{where}: option {prefix}{name} is in the argument spec, but not in the documentation"
        for name in sorted(set(spec) - set(options))
    ]
    problems += [
        f"{where}: option {prefix}{name} is documented, but not in the argument spec"
        for name in sorted(set(options) - set(spec))
    ]
    for name in sorted(set(options) & set(spec)):
        documented, real = options[name], spec[name]
        for key, fallback in (("type", "str"), ("required", False), ("default", None), ("elements", None)):
            left, right = documented.get(key, fallback), real.get(key, fallback)
            if left != right:
                problems.append(
                    f"{where}: option {prefix}{name}: {key} is {left!r} in the documentation and {right!r}"
                )
        if list(documented.get("choices") or []) != list(real.get("choices") or []):
            problems.append(
                f"{where}: option {prefix}{name}: the documented choices differ from the real ones"
            )
        if not documented.get("description"):
            problems.append(f"{where}: option {prefix}{name} has no description")
        if "options" in real or "suboptions" in documented:
            problems += _option_problems(
                where, documented.get("suboptions") or {}, real.get("options") or {}, f"{prefix}{name}."
            )
    return problems
