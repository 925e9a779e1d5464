"""The generated CREATE statements match the definition of the tables."""

from kine.drivers.sql import ddl, table_definitions, tables


def test_statements_are_what_the_definition_gives() -> None:
    assert table_definitions.table_statements() == ddl.TABLES, "run `make tables`"
    assert table_definitions.index_statements() == ddl.INDEXES, "run `make tables`"


def test_names_are_those_of_the_definition() -> None:
    assert {column.name for column in table_definitions.kine.columns} == tables.COLUMNS
    assert {*tables.SHARED, tables.TURN} == set(table_definitions.metadata.tables)
    assert ddl.INDEXES["sqlite"].keys() >= tables.UNUSED_ON_SQLITE
