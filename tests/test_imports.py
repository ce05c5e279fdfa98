"""The garbage collector rests while libraries are imported, and no longer."""

import gc
from importlib import import_module

import pytest

from training.imports import uncollected


def test_the_collector_rests_inside_and_forgets_what_was_there() -> None:
    before = gc.get_freeze_count()
    try:
        with uncollected():
            assert not gc.isenabled()
        assert gc.isenabled() and gc.get_freeze_count() > before
        with pytest.raises(ImportError), uncollected():
            import_module("no_such_module")
        assert gc.isenabled()
    finally:
        gc.unfreeze()
