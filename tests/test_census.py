"""Names mean one thing, functions are short, and no modules import each other."""

from scripts.census import circles, homes, long_functions

SHARE = 0.04  # of the public names may have two homes


def test_names_have_one_home() -> None:
    names = homes()
    several = {name: where for name, where in names.items() if len(where) > 1}
    assert len(several) <= SHARE * len(names), sorted(several)
    assert {name: where for name, where in several.items() if len(where) > 2} == {}


def test_functions_are_short() -> None:
    assert long_functions() == []


def test_no_modules_import_each_other() -> None:
    assert circles() == []
