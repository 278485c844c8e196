"""A part of the sweep of tests/faults.py: every mistake is accepted or refused in one sentence, nothing else."""

from tests.faults import VALUES, sweep_constructors, sweep_images

KNOWN = {'accepted', 'refused'}
EVERY = 9  # of the values of an argument one in so many, other ones for each argument


def test_every_value_of_an_argument_is_accepted_or_refused_in_one_sentence():
    found = dict(sweep_constructors(lambda argument, value: (argument + value) % EVERY == 0))
    assert {name: outcome for name, outcome in found.items() if outcome not in KNOWN} == {}
    assert len(found) > 3 * len(VALUES) and set(found.values()) == KNOWN


def test_every_image_is_taken_or_refused_in_one_sentence():
    found = dict(sweep_images(lambda name: name in ('ViT, ALGM', 'MiT, downsample')))
    assert {name: outcome for name, outcome in found.items() if outcome not in KNOWN} == {}
    assert set(found.values()) == KNOWN
