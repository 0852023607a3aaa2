"""What a worker leaves behind when it dies."""

from __future__ import annotations

import os

from distilnb.engine.vitals import WHOLE, LastWords, Vitals, shared_memory


def test_last_words_outlive_the_process_that_wrote_them() -> None:
    descriptor = shared_memory()
    mine = Vitals(descriptor)
    child = os.fork()
    if not child:
        theirs = Vitals(descriptor)
        with theirs.at(2, 71, 13):
            theirs.at_step(1)
            os._exit(3)
    os.waitpid(child, 0)
    assert mine.words() == LastWords(2, 1, 71, 13)
    os.close(descriptor)
    mine.close()


def test_the_words_are_gone_when_the_row_is_through_even_if_it_raised() -> None:
    descriptor = shared_memory()
    vitals = Vitals(descriptor)
    os.close(descriptor)
    assert vitals.words() is None
    with vitals.at(0, 5, finishes=False):
        assert vitals.words() == LastWords(0, 0, 5, WHOLE)
    assert (vitals.words(), vitals.n_done) == (None, 0)
    moves = vitals.moves
    try:
        with vitals.at(0, 5, 1):
            raise ValueError
    except ValueError:
        pass
    assert (vitals.words(), vitals.n_done) == (None, 1)
    assert vitals.moves > moves
    vitals.close()
