"""The checker of the corpus itself: an attack that was not contained is told, whatever the outcome
that its file claims; and the corpus is as large and as wide as was promised."""

from dataclasses import replace

import pytest

from tests.hostile.corpus import (
    FOLDER,
    OUTCOMES,
    Counts,
    Entry,
    Seen,
    complaints,
    corpus,
    parse_entry,
)

RAY = "0123456789abcdef-here"
PAGE = Seen(503, f"error 1102: … ray={RAY}", RAY)
BEFORE, CPU, CRASH = Counts(), Counts(exceeded_cpu=1), Counts(crashes=1)
MEMORY = Counts(exceeded_memory=1)
CONTAINED = {
    "exceededCpu": replace(PAGE, after=CPU),
    "exceededMemory": replace(PAGE, after=MEMORY),
    "boundedMemory": Seen(500, "error 1101"),
    "ended": Seen(500, "error 1101"),
    "crashed": replace(PAGE, after=CRASH),
    "error": Seen(500, "error 1101"),
    "served": Seen(200, "contained"),
    "noAnswer": Seen(502, "error 502"),
    "cut": Seen(None, "ReadTimeout"),
    "refusedUpload": Seen(upload=(400, (10021,))),
    "any": Seen(200, "whatever"),
}
FAULTS = {
    "exceededCpu": [
        replace(PAGE, after=BEFORE),
        replace(PAGE, after=CRASH),
        replace(PAGE, after=CPU, status=200),
        replace(PAGE, after=CPU, text="error 1101: …"),
        replace(PAGE, after=CPU, ray="", text="error 1102: …"),
        replace(PAGE, after=CPU, calm="not calm: ReadTimeout"),
    ],
    "exceededMemory": [
        replace(PAGE, after=BEFORE),
        replace(PAGE, after=CPU),
        Seen(500, "error 1101", after=MEMORY),
        replace(PAGE, after=MEMORY, memory_mib=900.0),
    ],
    "boundedMemory": [Seen(500, memory_mib=900.0), Seen(200, "reached: 512 MiB")],
    "ended": [Seen(200, "done"), Seen(None, "ReadTimeout")],
    "crashed": [replace(PAGE, after=BEFORE), Seen(200, "reached: it goes on", after=CRASH)],
    "error": [Seen(200, "done"), Seen(500, after=CRASH), Seen(500, calm="500 error 1101")],
    "served": [Seen(200, "reached: /etc/passwd"), Seen(200, "?"), Seen(500), Seen(200, after=CPU)],
    "noAnswer": [Seen(None, "ReadTimeout"), Seen(200, after=CRASH)],
    "cut": [Seen(None, "reached: an end"), Seen(None, calm="503 error 1102")],
    "refusedUpload": [Seen(), Seen(upload=(500, (10001,))), Seen(upload=(400, (10016,)))],
    "any": [Seen(200, "reached: something"), Seen(200, calm="503"), Seen(upload=(500, (10001,)))],
}
"""What must not pass, by the outcome that a file claims."""
CLASSES_MIN = {"cpu": 20, "memory": 15, "sandbox": 10, "console": 6, "wire": 12, "process": 10}


def test_the_corpus_is_as_large_and_as_wide_as_was_promised() -> None:
    """Sixty hostile workers at least, of every class; no two look alike to the platform."""
    found = corpus()
    assert len(found) >= 60
    for name, least in CLASSES_MIN.items():
        assert sum(entry.name.startswith(f"{name}/") for entry in found) >= least, name
    assert len({entry.worker for entry in found}) == len(found)
    assert all(len(entry.worker) <= 60 for entry in found)
    assert {entry.contained for entry in found} <= set(OUTCOMES)


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_what_was_contained_gives_no_complaint(outcome: str) -> None:
    """One good end of each kind."""
    assert complaints(Entry("x/y", "x", outcome, ""), CONTAINED[outcome]) == []


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_what_was_not_contained_is_told_whatever_was_claimed(outcome: str) -> None:
    """Each planted fault is found."""
    for seen in FAULTS[outcome]:
        assert complaints(Entry("x/y", "x", outcome, ""), seen), seen


@pytest.mark.parametrize("head", ["", "// tries: x\n", "// tries: x\n// contained: maybe\n"])
def test_a_file_that_does_not_say_what_it_tries_is_refused(head: str) -> None:
    """Nothing is in the corpus that is not checked."""
    with pytest.raises(ValueError, match="does not say"):
        parse_entry("x/y", head, FOLDER)
