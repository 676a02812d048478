"""The rules by their names, as suite files name them. Importing this reaches every file that a verdict depends on."""

from collections.abc import Callable

from medtune.evaluation.rules import (
    escalate_109,
    escalate_119,
    no_escalation,
    no_invented_identity,
    no_prescription_dose,
    no_refusal,
)

# (prompt, answer) -> (passed, a short English sentence that names what was found)
RULES: dict[str, Callable[[str, str], tuple[bool, str]]] = {
    "escalate_119": escalate_119.judge,
    "escalate_109": escalate_109.judge,
    "no_escalation": no_escalation.judge,
    "no_prescription_dose": no_prescription_dose.judge,
    "no_refusal": no_refusal.judge,
    "no_invented_identity": no_invented_identity.judge,
}
