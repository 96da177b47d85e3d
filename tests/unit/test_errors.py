from __future__ import annotations

from builder.errors import BuilderError, CommandError, ConfigError, ToolError


def test_one_mistake_is_told_in_one_line() -> None:
    error = ConfigError("relay.yaml", ["`region` is missing"])

    assert error.message == "relay.yaml: `region` is missing"


def test_several_mistakes_are_counted_and_listed() -> None:
    error = ConfigError("relay.yaml", ["`region` is missing", "`port` is 2525"], hint="Mend both")

    assert error.message == "relay.yaml: 2 mistakes\n  - `region` is missing\n  - `port` is 2525"
    assert error.hint == "Mend both"


def test_every_error_can_be_caught_as_a_builder_error() -> None:
    assert all(issubclass(kind, BuilderError) for kind in (ConfigError, ToolError, CommandError))
