"""The JSON Schema and the reference page say what the types say; an independent validator agrees."""

from __future__ import annotations

import importlib.util
import json
import re
import types
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from collector.collectors.registry import COLLECTORS
from collector.config.schema import schema_of
from collector.triggers.registry import TRIGGERS

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "config").glob("*.yaml"))
BROKEN = ROOT / "tests" / "broken_configs"

# What a schema can know. The rest is syntax (no YAML, no document), or refers to something else in the
# file (unique ids, names of pipelines and triggers), or is a rule of a collector, or a bound on a size.
SCHEMA_REJECTS = {
    "defaults_unknown_collector", "defaults_unknown_option", "label_name_unfit", "label_of_two_lines",
    "many_ten_errors", "pipeline_name_unfit",
    "pipeline_steps_as_keys", "pipeline_without_steps", "step_option_beside_with", "step_option_of_wrong_kind",
    "step_option_required", "step_pressure_policy_unknown", "step_unknown_collector", "step_unknown_key",
    "step_unknown_option", "step_when_not_a_list", "step_when_unknown_condition", "step_with_is_a_list",
    "step_without_collector", "step_without_id", "text_empty", "text_list_at_top", "text_only_comments",
    "text_word_at_top", "top_no_pipelines", "top_section_is_a_list", "top_section_is_empty", "top_triggers_as_keys",
    "top_section_is_its_first_key", "trigger_pipeline_misspelt", "trigger_enabled_misspelt",
    "top_unknown_section", "trigger_id_unfit", "trigger_option_not_a_list", "trigger_register_misspelt",
    "trigger_unknown_option",
    "trigger_unknown_type", "trigger_without_type", "value_bool_in_quotes", "value_choice_misspelled",
    "value_duration_unknown_unit", "value_is_a_mapping", "value_is_missing", "value_list_instead_of_text",
    "value_number_in_quotes", "value_number_is_a_fraction", "value_number_out_of_bounds", "value_path_relative",
    "value_rate_without_per_second", "value_reserve_is_a_word", "value_reserve_without_unit", "value_size_ambiguous",
    "value_size_negative", "value_size_without_number", "value_textfile_without_prom",
    "value_size_wrong_case", "version_in_words", "version_missing", "version_of_the_future", "yaml_alias_bomb",
    "yaml_merge_key", "pipeline_steps_empty", "yaml_too_deep", "yaml_alias_within_itself",
    "lookalike_byte_order_mark", "lookalike_colon", "lookalike_dashes_of_a_list", "lookalike_quotes_of_a_key",
    "lookalike_quotes_with_a_comma", "lookalike_space_after_colon", "lookalike_space_at_the_end",
    "lookalike_space_before_the_unit", "lookalike_space_in_indentation", "syntax_colon_glued_alone",
    "syntax_colon_glued_in_braces", "syntax_colon_glued_to_braces", "syntax_colon_glued_twice",
    "syntax_dash_glued_alone", "syntax_dash_missing", "syntax_dash_missing_in_lines",
    "syntax_dash_missing_second", "syntax_equals_alone", "syntax_indent_missing", "syntax_question_mark_start",
    "value_bool_number", "value_number_with_comma", "value_number_with_comma_in_braces",
}  # fmt: skip


def generator() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = schema_of(COLLECTORS, TRIGGERS)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def errors(validator: jsonschema.Draft202012Validator, document: Any) -> list[str]:
    return [error.message for error in validator.iter_errors(document)]


def test_config_reference_and_schema_are_what_the_types_say() -> None:
    """Generated files are up to date; run `make docs` if this fails."""
    stale = [path.name for path, text in generator().generated().items() if path.read_text() != text]
    assert stale == []


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_config_shipped_schema_is_the_one_that_editors_load(path: Path) -> None:
    """The schema that a file's first line names is the generated one: it takes the file, and not a broken copy."""
    modeline = re.match(r"# yaml-language-server: \$schema=(\S+)\n", path.read_text())
    assert modeline is not None
    schema = json.loads((path.parent / modeline[1]).read_text())
    assert schema == schema_of(COLLECTORS, TRIGGERS)
    loaded = jsonschema.Draft202012Validator(schema)
    document = yaml.safe_load(path.read_text())
    assert errors(loaded, document) == []
    assert errors(loaded, document | {"pressure": {"flor": "1GiB"}}) != []
    assert errors(loaded, document | {"archive": {"keep": {"age": "two weeks"}}}) != []


@pytest.mark.parametrize("path", sorted(BROKEN.glob("*.yaml")), ids=lambda path: path.stem)
def test_config_schema_rejects_what_a_schema_can(path: Path, validator: jsonschema.Draft202012Validator) -> None:
    """A broken file that is valid YAML is already red in the editor, unless only the loader can tell."""
    try:
        document = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError):
        assert path.stem not in SCHEMA_REJECTS
        return
    assert bool(errors(validator, document)) == (path.stem in SCHEMA_REJECTS)


def test_config_schema_knows_the_options_of_each_kind(validator: jsonschema.Draft202012Validator) -> None:
    """Options are checked by the name beside them, as the loader does it."""
    step = {"id": "a", "collector": "dmesg", "with": {"since": "15m"}}
    document = {"version": 1, "pipelines": {"crash": {"steps": [step]}}}
    assert errors(validator, document) == []
    step["collector"] = "proc_files"
    assert errors(validator, document) != []
