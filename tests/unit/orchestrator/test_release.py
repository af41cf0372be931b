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


def test_a_candidate_is_issued_beside_the_champion(office: Office) -> None:
    office.move_champion(1)
    key_id = office.active_key()
    version = register_model(office, seed=1)
    office.move_alias("candidate", version)
    office.settle()

    assert office.issued() == {(key_id, 1, 1): "live", (key_id, 1, version): "live"}


def test_a_key_that_is_rotated_meanwhile_has_the_candidate_too(office: Office) -> None:
    office.move_champion(1)
    key_id = office.active_key()
    version = register_model(office, seed=1)
    office.move_alias("candidate", version)
    office.settle()
    office.rotate()
    office.settle()
    office.confirm(key_id, 2)
    office.settle()
    issued = office.issued()

    assert ("live", "live") == (issued[key_id, 2, 1], issued[key_id, 2, version])


def test_an_alias_of_another_name_issues_nothing(office: Office) -> None:
    office.move_champion(1)
    key_id = office.active_key()
    office.move_alias("interesting", register_model(office, seed=1))
    office.settle()

    assert office.issued() == {(key_id, 1, 1): "live"}
