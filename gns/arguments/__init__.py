"""The options of every command: frozen dataclasses ↔ command line ↔ config.json.

A field is declared once, with its default, help and checks; `gns.utils.option_table` derives the rest. The options of a
rule stand in its own file, and appear here because `gns.rules` lists it.
"""

from gns.arguments.command_line import (
    default_model_path,
    option_tables,
    parse_inspect,
    parse_metrics,
    parse_render,
    parse_suite,
    parse_train,
)
from gns.arguments.commands import InspectConfig, MetricsConfig, RenderConfig, SuiteConfig
from gns.arguments.shared import Budget, MachineConfig, SceneConfig, parse_budget
from gns.arguments.stored import CONFIG_FILE, config_text, decisive_options, read_config
from gns.arguments.training import LARGEST_PORT, Config, TrainConfig

__all__ = [
    "CONFIG_FILE",
    "LARGEST_PORT",
    "Budget",
    "Config",
    "InspectConfig",
    "MachineConfig",
    "MetricsConfig",
    "RenderConfig",
    "SceneConfig",
    "SuiteConfig",
    "TrainConfig",
    "config_text",
    "decisive_options",
    "default_model_path",
    "option_tables",
    "parse_budget",
    "parse_inspect",
    "parse_metrics",
    "parse_render",
    "parse_suite",
    "parse_train",
    "read_config",
]
