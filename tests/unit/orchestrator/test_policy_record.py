"""Which policies are in force is on record from every start of the orchestrator."""

import hashlib
import json

from orchestrator.federation import Policies
from orchestrator.server import record_policies
from tests.unit.orchestrator.office import ORCHESTRATOR_ID, Office


def test_each_start_records_the_digest_of_the_policies(office: Office) -> None:
    policies = Policies(dual_control=["revoke", "destroy"])
    record_policies(office.registry, policies)
    record_policies(office.registry, policies)
    written = json.dumps(
        policies.model_dump(mode="json")
        | {"destroy_window_s": 604800}
        # A float that is whole is written without a fraction: RFC 8785, 3.2.2.3.
        | {"rotation_overlap_s": 600, "max_staleness_s": 5},
        sort_keys=True,
        separators=(",", ":"),
    )
    digest = hashlib.sha256(written.encode()).hexdigest()

    found = office.entries("policy.in_force")
    assert [dict(entry.subject) for entry in found] == [
        {
            "sha256": digest,
            "dual_control": "destroy, revoke",
            "public_embeddings": "refused",
        }
    ] * 2
    assert {entry.actor for entry in found} == {str(ORCHESTRATOR_ID)}


def test_other_policies_have_another_digest(office: Office) -> None:
    record_policies(office.registry, Policies())
    record_policies(office.registry, Policies(allow_public_embeddings=True))
    first, second = office.entries("policy.in_force")

    assert first.subject["sha256"] != second.subject["sha256"]
    assert first.subject["dual_control"] == "nothing"
    assert second.subject["public_embeddings"] == "allowed"
