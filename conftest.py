"""Loads the plugin that prints the table of controls after the tests."""

pytest_plugins = ["tests.control_table"]
