"""Which version of a model is brought to the keys, and when."""

from tests.unit.orchestrator.office import Office, register_model


def test_a_release_beside_a_champion_is_issued_once_it_is_the_champion(
    office: Office,
) -> None:
    """When it is registered its provider has not delivered it yet."""
    office.move_champion(1)
    key_id = office.active_key()
    version = register_model(office, seed=1)
    office.settle()
    before = office.issued()
    office.move_champion(version)
    office.settle()

    assert before == {(key_id, 1, 1): "live"}
    assert office.issued()[key_id, 1, version] == "live"


def test_a_champion_that_is_named_again_starts_nothing(office: Office) -> None:
    """A provider that got no answer asks again."""
    office.active_key()
    office.move_champion(1)
    office.settle()
    before = office.jobs()
    office.move_champion(1)

    assert office.jobs() == before
